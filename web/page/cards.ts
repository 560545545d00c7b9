// The card of a hit, and what is said of it.

import { showBox } from "./boxes.js";
import { byId, element, showImage, within } from "./dom.js";
import type { Found, Shown } from "./messages.js";

export const NO_THUMBNAIL = "no image here";

export const nameOf = (key: string): string => key.split(/[/\\]/).filter(Boolean).pop() ?? key;

/** The card of an item to start from. */
export function makeStart(item: Shown, search: () => void): HTMLElement {
  const card = plainCard(item, "", search);
  card.classList.add("start");
  within(card, ".open").setAttribute("aria-label", `Search for images like ${nameOf(item.key)}`);
  return card;
}

/** The card of a hit; `rank` counts from 1. */
export function makeCard(hit: Found, rank: number, bits: number, open: () => void): HTMLElement {
  const card = plainCard(hit, String(rank), open);
  const facts = factsOf(hit, bits).slice(0, 1);
  showBox(within(card, ".figure"), hit.thumbnail && hit.box);
  // Unrelated images differ in about half of the bits.
  const share = Math.max(0, 1 - (2 * hit.distance) / bits);
  const bar = within(card, ".bar");
  bar.style.setProperty("--share", `${100 * share}%`);
  bar.title = `${factsOf(hit, bits).at(-1)![1]} bits differ`;
  for (const [what, value] of facts) {
    const fact = element("span", "", `${what} `);
    fact.append(element("b", "", value));
    within(card, ".chances").append(fact);
  }
  const spoken = facts.map((pair) => pair.join(" ")).join(", ");
  const label = `Open ${nameOf(hit.key)}, number ${rank}, ${spoken}`;
  within(card, ".open").setAttribute("aria-label", label);
  return card;
}

function plainCard(item: Shown, rank: string, open: () => void): HTMLElement {
  const template = byId("card") as unknown as HTMLTemplateElement;
  const card = (template.content.cloneNode(true) as DocumentFragment).firstElementChild as HTMLElement;
  const part = (name: string): HTMLElement => within(card, `.${name}`);
  const name = nameOf(item.key);
  showImage(part("figure"), item.thumbnail, NO_THUMBNAIL);
  part("name").append(...(rank ? [element("b", "", rank)] : []), name);
  part("name").title = item.key;
  part("folder").textContent = nameOf(item.key.slice(0, -name.length - 1));
  part("metadata").textContent = metadataOf(item)
    .slice(0, 3)
    .map((pair) => pair.join(": "))
    .join(" / ");
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

export function metadataOf(item: Shown): [string, string][] {
  return Object.entries(item.metadata).map(([name, value]) => [
    name,
    typeof value === "object" ? JSON.stringify(value) : String(value),
  ]);
}

// Never 0% or 100%, which would claim certainty.
function percent(chance: number): string {
  if (chance < 0.01) return "<1%";
  return chance > 0.99 ? ">99%" : `${Math.round(100 * chance)}%`;
}
