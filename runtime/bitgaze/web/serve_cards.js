// An image on the page: the card of a hit, its figure, and the attention over the image.

import { byId, element, lastPart } from "/serve_dom.js";

// `rank` is the hit's position, from 1; without it the card is an item to start from.
export function makeCard(item, bits, rank) {
  const card = byId("card").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  showImage(part("figure"), imageOf(item), "");
  const isPath = item.key.endsWith(item.name);
  part("name").append(...(rank ? [element("b", "", rank)] : []), item.name);
  part("name").title = item.key;
  part("folder").textContent = isPath ? lastPart(item.key.slice(0, -item.name.length - 1)) : "";
  part("search").dataset.key = part("open").dataset.key = item.key;
  part("eye").setAttribute("aria-label", `Show where the model looked in ${item.name}`);
  part("eye").hidden = !item.has_image;
  let facts = "";
  if (rank) {
    // Unrelated images differ in about half of the bits.
    const share = item.probability ?? Math.max(0, 1 - (2 * item.distance) / bits);
    part("bar").style.setProperty("--share", `${100 * share}%`);
    if (item.distance !== undefined) part("bar").title = `${inBits(item.distance)} of ${bits} bits differ`;
    part("chances").append(...chancesOf(item));
    part("metadata").textContent = Object.entries(item.metadata).slice(0, 3).map(([n, v]) => `${n}: ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ");
    facts = [`, number ${rank}`, ...[...part("chances").children].map((one) => one.textContent)].join(", ");
  } else card.classList.add("start");
  part("search").setAttribute("aria-label", `Search for images like ${item.name}`);
  part("open").setAttribute("aria-label", rank ? `Open ${item.name}${facts}` : `Search for images like ${item.name}`);
  return card;
}

// A mean over looks need not be a whole number.
export const inBits = (distance) => String(Math.round(10 * distance) / 10);

// The server words the probabilities of a hit, such as "same kind" and "80%", or "a copy" and ">99%".
function chancesOf(hit) {
  return Object.entries(hit.chances).map(([name, chance]) => {
    const isCopy = name !== "same kind" && hit.same_image >= 0.9;
    const part = element("span", isCopy ? "likely" : "", `${name} `);
    part.append(element("b", "", chance));
    return part;
  });
}

export function imageOf(item) {
  if (!item.has_image) return { reason: "added by hand: no file" };
  const query = `key=${encodeURIComponent(item.key)}`;
  return { image: `/api/thumbnail?${query}`, attention: `/api/attention?${query}` };
}

// `reason` says why there is no image.
export function showImage(figure, { image, attention, reason = "no longer in this tab: choose it again to see it" }, alt) {
  const plain = figure.querySelector(".image");
  const heat = figure.querySelector(".attention");
  const note = figure.querySelector(".no-image");
  const showReason = (text) => {
    plain.hidden = true;
    note.hidden = false;
    note.textContent = text;
  };
  figure.classList.remove("hovered");
  heat.classList.remove("loaded");
  heat.removeAttribute("src");
  heat.hidden = true;
  figure.dataset.attention = attention ?? "";
  plain.hidden = false;
  note.hidden = true;
  plain.alt = alt;
  plain.onerror = () => showReason("the file is gone, has changed or cannot be read");
  if (image) plain.src = image;
  else {
    plain.removeAttribute("src");
    showReason(reason);
  }
}

// Attention costs the server a run of the network, so it is loaded only when somebody wants it.
export function loadAttention(figure) {
  const heat = figure.querySelector(".attention");
  if (heat.hasAttribute("src") || !figure.dataset.attention) return;
  heat.hidden = false;
  heat.onload = () => heat.classList.add("loaded");
  heat.onerror = () => (heat.hidden = true);
  heat.src = figure.dataset.attention;
}

export function pinAttention(card, isPinned) {
  const figure = card.querySelector(".figure");
  figure.classList.toggle("pinned", isPinned);
  figure.querySelector(".eye").setAttribute("aria-pressed", isPinned);
  if (isPinned) loadAttention(figure);
}
