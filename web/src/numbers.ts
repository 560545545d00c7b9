// Numbers as Python rounds and writes them: what is decided by them must be decided alike.

/** `round(x)`: to the nearest integer, halves to the even one. */
export function roundEven(x: number): number {
  const low = Math.floor(x);
  const rest = x - low;
  if (rest !== 0.5) return rest < 0.5 ? low : low + 1;
  return low % 2 === 0 ? low : low + 1;
}

/** `json.dumps(entries, sort_keys=True)`, of text and numbers; `floats` always have a point. */
export function pythonJson(entries: Record<string, string | number>, floats: Set<string>): string {
  const parts = Object.keys(entries)
    .sort()
    .map((name) => {
      const value = entries[name]!;
      const text =
        typeof value === "string"
          ? asciiJson(value)
          : floats.has(name)
            ? pythonFloat(value)
            : String(value);
      return `${asciiJson(name)}: ${text}`;
    });
  return `{${parts.join(", ")}}`;
}

function asciiJson(text: string): string {
  return JSON.stringify(text).replace(
    /[\u007f-\uffff]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

// Both languages write the shortest digits; Python has an exponent below 1e-4.
function pythonFloat(value: number): string {
  if (value !== 0 && Math.abs(value) < 1e-4) {
    const [digits, exponent] = value.toExponential().split("e");
    return `${digits}e-${exponent!.slice(1).padStart(2, "0")}`;
  }
  return Number.isInteger(value) ? value.toFixed(1) : String(value);
}
