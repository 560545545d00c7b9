// The images that a person has marked, and the list of their files. bitgaze deletes nothing: the list is
// for a file manager or a script.

import { byId, counted, fileSize, recall, remember } from "/serve_dom.js";

const TYPES = { lines: ["txt", "text/plain"], nul: ["bin", "application/octet-stream"], json: ["json", "application/json"] };

export class Marks {
  #marked = new Map(); // path and size by key
  #name;
  #onChange;

  // Marks of a gallery outlast the page; `onChange` is called when other ones take their place.
  constructor(onChange) {
    this.#onChange = onChange;
    byId("marks-clear").addEventListener("click", () => this.restore([]));
    byId("marks-save").addEventListener("click", () => this.#save());
    byId("marks-copy").addEventListener("click", () => this.#copy());
    byId("marks-format").addEventListener("change", () => this.#show());
  }

  open(id) {
    this.#name = `bitgaze-marks ${id}`;
    this.#marked = new Map(recall(this.#name) ?? []);
    this.#show();
  }

  has(key) {
    return this.#marked.has(key);
  }

  set(member, isMarked) {
    if (isMarked) this.#marked.set(member.key, { path: member.path, bytes: member.file_bytes ?? 0 });
    else this.#marked.delete(member.key);
    this.#keep();
  }

  // All that is marked, to restore it.
  all() {
    return [...this.#marked];
  }

  restore(marked) {
    this.#marked = new Map(marked);
    this.#keep();
    this.#onChange();
  }

  // Says how many groups would lose all of their images.
  warn(emptied) {
    byId("marks-note").textContent = emptied ? `In ${counted(emptied, "group")} nothing would be left.` : "";
    byId("marks-note").className = emptied ? "warning" : "";
  }

  #keep() {
    remember(this.#name, [...this.#marked]);
    this.#show();
  }

  #show() {
    const marked = [...this.#marked.values()];
    const bytes = marked.reduce((sum, one) => sum + one.bytes, 0);
    byId("marks").hidden = !marked.length;
    byId("marks-count").textContent = `${counted(marked.length, "image")} marked, ${fileSize(bytes)}.`;
    byId("marks-copy").textContent = "Copy";
    byId("marks-copy").hidden = byId("marks-format").value === "nul"; // no clipboard keeps NULs
  }

  // The paths of files, in the form that is chosen; an item added by hand has none.
  #paths() {
    return [...this.#marked.values()].map(({ path }) => path).filter((path) => path !== null);
  }

  #text() {
    const paths = this.#paths();
    const format = byId("marks-format").value;
    if (format === "json") return `${JSON.stringify(paths, null, 2)}\n`;
    if (format === "nul") return paths.map((path) => `${path}\0`).join("");
    const broken = paths.filter((path) => /[\n\r]/.test(path));
    if (broken.length) {
      byId("marks-note").textContent = `${counted(broken.length, "path")} with a line break: choose another form.`;
      return null;
    }
    return paths.map((path) => `${path}\n`).join("");
  }

  #save() {
    const text = this.#text();
    if (text === null) return;
    const [ending, type] = TYPES[byId("marks-format").value];
    const address = URL.createObjectURL(new Blob([bytesOf(text)], { type }));
    Object.assign(document.createElement("a"), { href: address, download: `marked.${ending}` }).click();
    setTimeout(() => URL.revokeObjectURL(address));
  }

  async #copy() {
    const text = this.#text();
    if (text === null) return;
    try {
      await navigator.clipboard.writeText(text);
      byId("marks-copy").textContent = "Copied";
    } catch {
      byId("marks-note").textContent = "This browser does not allow copying; save the list.";
    }
  }
}

// UTF-8, and the bytes of paths that are no text, which Python writes as U+DC80 to U+DCFF.
function bytesOf(text) {
  const parts = text.split(/([\udc80-\udcff])/u);
  const encoder = new TextEncoder();
  return new Uint8Array(parts.flatMap((part, i) => (i % 2 ? [part.charCodeAt(0) - 0xdc00] : [...encoder.encode(part)])));
}
