// An image on the page: the card of a hit, its figure, and the attention over the image.

import { byId, counted, element, folderOf } from "/serve_dom.js";
import { setShape, thumbnailSide } from "/serve_rows.js";

// `rank` is the hit's position, from 1; without it the card is an item to start from. `gallery` has the
// number of bits of a code, `root` is the folder that all items share.
export function makeCard(item, { bits, root }, rank) {
  const card = byId("card").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  setShape(card, item);
  showImage(part("figure"), imageOf(item), "");
  part("name").textContent = item.name;
  part("name").title = item.key;
  part("folder").textContent = folderOf(item, root);
  part("search").dataset.key = part("open").dataset.key = item.key;
  part("eye").setAttribute("aria-label", `Show where the model looked in ${item.name}`);
  part("eye").hidden = !item.has_image;
  let facts = "";
  if (rank) {
    part("bar").style.setProperty("--share", `${100 * (item.probability ?? shareOf(item.distance, bits))}%`);
    part("chances").append(...(item.distance === undefined ? [] : [element("span", "", likeness(item.distance, bits))]), ...chancesOf(item));
    part("metadata").textContent = Object.entries(item.metadata).slice(0, 3).map(([n, v]) => `${n}: ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" \u00b7 ");
    part("copy").textContent = copyWords(item);
    part("copy").classList.toggle("good", item.same_image >= 0.9);
    facts = [`, number ${rank}`, ...[...part("chances").children].map((one) => one.textContent)].join(", ");
  } else card.classList.add("start");
  part("search").setAttribute("aria-label", `Search for images like ${item.name}`);
  part("open").setAttribute("aria-label", rank ? `Open ${item.name}${facts}` : `Search for images like ${item.name}`);
  return card;
}

// Lets a card show and hide those of its copies.
export function foldCopies(card, copies) {
  const fold = card.querySelector(".alike");
  const show = (isOpen) => {
    fold.setAttribute("aria-expanded", isOpen);
    fold.textContent = isOpen ? "hide copies" : `+ ${counted(copies.length, "copy", "copies")}`;
    for (const copy of copies) copy.classList.toggle("folded", !isOpen);
  };
  fold.hidden = false;
  fold.onclick = () => {
    show(fold.getAttribute("aria-expanded") !== "true");
    card.dispatchEvent(new Event("fold", { bubbles: true }));
  };
  show(false);
}

// A mean over looks need not be a whole number.
export const inBits = (distance) => String(Math.round(10 * distance) / 10);

// How alike two images are, in [0, 1]: codes of unrelated images differ in about half of their bits.
const shareOf = (distance, bits) => Math.max(0, 1 - (2 * distance) / bits);

// The same in words that need no explanation.
export function likeness(distance, bits) {
  const share = shareOf(distance, bits);
  if (share >= 0.9) return "nearly the same";
  if (share >= 0.7) return "very alike";
  if (share >= 0.5) return "alike";
  return share >= 0.3 ? "somewhat alike" : "hardly alike";
}

const copyWords = (hit) => Object.keys(hit.chances).find((name) => /cop|identical/.test(name)) ?? "";

// The server words the probabilities of a hit, such as "same kind" and "80%", or "a copy" and ">99%".
function chancesOf(hit) {
  return Object.entries(hit.chances).map(([name, chance]) => {
    const isCopy = name !== "same kind" && hit.same_image >= 0.9;
    const part = element("span", isCopy ? "likely" : "", `${name} `);
    part.append(element("b", "", chance));
    return part;
  });
}

export function imageOf(item, side = thumbnailSide()) {
  if (!item.has_image) return { reason: "added by hand: no file" };
  const query = `key=${encodeURIComponent(item.key)}&size=${side}`;
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
  if (heat) {
    heat.classList.remove("loaded");
    heat.removeAttribute("src");
    heat.hidden = true;
  }
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
