// The card of a hit, and what is said of it.

import { showBox } from "./boxes.js";
import { byId, element, showImage, within } from "./dom.js";
import type { Found } from "./messages.js";

export const NO_THUMBNAIL = "no image here";

export const nameOf = (key: string): string => key.split(/[/\\]/).filter(Boolean).pop() ?? key;

export function makeCard(hit: Found, rank: number, bits: number, open: () => void): HTMLElement {
  const template = byId("card") as unknown as HTMLTemplateElement;
  const card = (template.content.cloneNode(true) as DocumentFragment).firstElementChild as HTMLElement;
  const part = (name: string): HTMLElement => within(card, `.${name}`);
  const name = nameOf(hit.key);
  const facts = factsOf(hit, bits).slice(0, 1);
  showImage(part("figure"), hit.thumbnail, NO_THUMBNAIL);
  showBox(part("figure"), hit.thumbnail && hit.box);
  part("name").append(element("b", "", String(rank)), name);
  part("name").title = hit.key;
  part("folder").textContent = nameOf(hit.key.slice(0, -name.length - 1));
  // Unrelated images differ in about half of the bits.
  const share = Math.max(0, 1 - (2 * hit.distance) / bits);
  part("bar").style.setProperty("--share", `${100 * share}%`);
  part("bar").title = `${factsOf(hit, bits).at(-1)![1]} bits differ`;
  for (const [what, value] of facts) {
    const fact = element("span", "", `${what} `);
    fact.append(element("b", "", value));
    part("chances").append(fact);
  }
  part("metadata").textContent = metadataOf(hit)
    .slice(0, 3)
    .map((pair) => pair.join(": "))
    .join(" / ");
  const spoken = facts.map((pair) => pair.join(" ")).join(", ");
  part("open").setAttribute("aria-label", `Open ${name}, number ${rank}, ${spoken}`);
  part("open").addEventListener("click", open);
  return card;
}

/** What is known of a hit: its name and its value, in words. */
export function factsOf(hit: Found, bits: number): [string, string][] {
  const facts: [string, string][] = [];
  if (hit.sameKind !== null) facts.push(["same kind", percent(hit.sameKind)]);
  facts.push(["bits that differ", `${Math.round(10 * hit.distance) / 10} of ${bits}`]);
  return facts;
}

export function metadataOf(hit: Found): [string, string][] {
  return Object.entries(hit.metadata).map(([name, value]) => [
    name,
    typeof value === "object" ? JSON.stringify(value) : String(value),
  ]);
}

// Never 0% or 100%, which would claim certainty.
function percent(chance: number): string {
  if (chance < 0.01) return "<1%";
  return chance > 0.99 ? ">99%" : `${Math.round(100 * chance)}%`;
}
