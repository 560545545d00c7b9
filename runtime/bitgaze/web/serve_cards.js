// A picture on the page: the card of a hit, its figure, and the attention over it.

import { at, element, lastPart } from "/serve_words.js";

// `bits` and `rank` of a hit; without a rank the item is one to start from.
export function card(item, bits, rank) {
  const card = at("hit").content.cloneNode(true).firstElementChild;
  const part = (name) => card.querySelector(`.${name}`);
  const figure = part("figure");
  show(figure, imageOf(item), "");
  const [folder] = item.key.endsWith(item.name) ? [lastPart(item.key.slice(0, -item.name.length - 1))] : [""];
  part("name").append(...(rank ? [element("b", "", rank)] : []), item.name);
  part("name").title = item.key;
  part("folder").textContent = folder;
  part("go").dataset.key = item.key;
  part("look").setAttribute("aria-label", `Show where the model looked in ${item.name}`);
  part("look").hidden = !item.has_image;
  let words = "";
  if (rank) {
    const share = Math.max(0, 1 - item.distance / (bits / 2));
    part("bar").style.setProperty("--share", `${100 * share}%`);
    part("distance").textContent = `${item.distance} of ${bits} bits differ`;
    part("chances").append(...chances(item));
    part("metadata").textContent = Object.entries(item.metadata).slice(0, 3).map(([n, v]) => `${n}: ${typeof v === "object" ? JSON.stringify(v) : v}`).join(" · ");
    words = `, number ${rank}, ${part("distance").textContent}, ${[...part("chances").children].map((one) => one.textContent).join(", ")}`;
  } else card.classList.add("start");
  part("go").setAttribute("aria-label", `Search for pictures like ${item.name}${words}`);
  return card;
}

// What the server says of a hit: words and a percentage, such as "same kind 80%".
function chances(hit) {
  return Object.entries(hit.chances).map(([words, chance]) => {
    const part = element("span", words === "same image" && hit.same_image >= 0.5 ? "same" : "", `${words} `);
    part.append(element("b", "", chance));
    return part;
  });
}

export function imageOf(item) {
  if (!item.has_image) return { gone: "added by hand, without a file" };
  const query = `key=${encodeURIComponent(item.key)}`;
  return { image: `/api/thumbnail?${query}`, attention: `/api/attention?${query}` };
}

export function show(figure, { image, attention, gone = "not kept: choose it again to see it" }, words) {
  const plain = figure.querySelector(".image");
  const heat = figure.querySelector(".attention");
  const note = figure.querySelector(".gone");
  const lose = (text) => {
    plain.hidden = true;
    note.hidden = false;
    note.textContent = text;
  };
  figure.classList.remove("looking");
  heat.classList.remove("there");
  heat.removeAttribute("src");
  heat.hidden = true;
  figure.dataset.attention = attention ?? "";
  plain.hidden = false;
  note.hidden = true;
  plain.alt = words;
  plain.onerror = () => lose("the file is gone or cannot be read");
  if (image) plain.src = image;
  else {
    plain.removeAttribute("src");
    lose(gone);
  }
}

// The attention of a picture takes a run of the network: it is asked for when somebody looks.
export function look(figure) {
  const heat = figure.querySelector(".attention");
  if (heat.hasAttribute("src") || !figure.dataset.attention) return;
  heat.hidden = false;
  heat.onload = () => heat.classList.add("there");
  heat.onerror = () => (heat.hidden = true);
  heat.src = figure.dataset.attention;
}

export function pin(card, isPinned) {
  const figure = card.querySelector(".figure");
  figure.classList.toggle("pinned", isPinned);
  figure.querySelector(".look").setAttribute("aria-pressed", isPinned);
  if (isPinned) look(figure);
}
