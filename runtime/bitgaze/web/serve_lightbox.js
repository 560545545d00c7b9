// One image, large: what is known of it, where it matches, and the next one by arrow key.

import { RequestError, fetchJson } from "/serve_api.js";
import { imageOf, inBits, likeness, loadAttention, showImage } from "/serve_cards.js";
import { byId, dateText, element, fileSize, folderOf } from "/serve_dom.js";
import { showBox } from "/serve_region.js";

const SIDE = 1600; // pixels

export class Lightbox {
  #items = [];
  #position = 0;
  #opener;

  // `search` is called with the key of an item to search from; `actions` returns further buttons for an
  // item.
  constructor(search, actions = () => []) {
    this.actions = actions;
    this.dialog = byId("lightbox");
    this.figure = this.dialog.querySelector(".figure");
    const on = (id, action) => byId(id).addEventListener("click", action);
    on("lightbox-close", () => this.dialog.close());
    on("lightbox-before", () => this.#step(-1));
    on("lightbox-after", () => this.#step(1));
    on("lightbox-eye", () => this.#toggleAttention());
    on("lightbox-copy", () => this.#copy());
    on("lightbox-reveal", () => this.#reveal());
    on("lightbox-search", () => {
      this.dialog.close();
      search(this.#item.key);
    });
    this.dialog.addEventListener("click", ({ target }) => target === this.dialog && this.dialog.close()); // beside it
    this.dialog.addEventListener("close", () => this.#opener?.focus());
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.#step(step);
    });
  }

  // `gallery` is the answer of /api/gallery, `root` the folder that all items share; `opener` gets the
  // focus back.
  open(items, position, gallery, root, opener) {
    this.#items = items;
    this.#opener = opener;
    Object.assign(this, { gallery, root });
    this.dialog.showModal();
    this.#show(position);
  }

  // Shows the further buttons as they are now.
  showActions() {
    const hadFocus = [...byId("lightbox-actions").children].indexOf(document.activeElement);
    byId("lightbox-actions").replaceChildren(...this.actions(this.#item));
    byId("lightbox-actions").children[hadFocus]?.focus();
  }

  get #item() {
    return this.#items[this.#position];
  }

  #step(step) {
    const position = this.#position + step;
    if (position >= 0 && position < this.#items.length) this.#show(position);
  }

  async #show(position) {
    this.#position = position;
    const item = this.#item;
    const { image, ...rest } = imageOf(item, SIDE);
    showImage(this.figure, { ...rest, image }, item.name);
    showBox(this.figure, item.box);
    byId("lightbox-eye").hidden = !image || this.gallery.fingerprint === null;
    byId("lightbox-reveal").hidden = !image || !this.gallery.can_reveal;
    byId("lightbox-reveal").textContent = "Show in folder";
    this.#pin(false);
    byId("lightbox-name").textContent = item.name;
    byId("lightbox-folder").textContent = folderOf(item, this.root);
    byId("lightbox-place").textContent = `${position + 1} of ${this.#items.length}`;
    byId("lightbox-before").disabled = position === 0;
    byId("lightbox-after").disabled = position === this.#items.length - 1;
    byId("lightbox-path").textContent = item.key;
    this.showActions();
    byId("lightbox-copy").textContent = "Copy path";
    this.#listNumbers(item);
    const known = this.#knownFacts(item);
    this.#list(byId("lightbox-facts"), known);
    try {
      const found = await fetchJson(`/api/item?key=${encodeURIComponent(item.key)}`);
      if (this.#item === item) this.#list(byId("lightbox-facts"), { ...known, ...factsOf(found) });
    } catch (error) {
      if (!(error instanceof RequestError)) throw error; // else what the search said is shown
    }
  }

  #knownFacts(item) {
    const facts = {};
    if (item.width) facts.size = `${item.width} \u00d7 ${item.height}`;
    if (item.file_bytes) facts.file = fileSize(item.file_bytes);
    return { ...facts, ...item.metadata };
  }

  // What the search says: in words, then in figures.
  #listNumbers(item) {
    const facts = {};
    if (item.distance !== undefined) facts.likeness = likeness(item.distance, this.gallery.bits);
    Object.assign(facts, item.chances);
    if (item.distance !== undefined) facts["bits that differ"] = `${inBits(item.distance)} of ${this.gallery.bits}`;
    byId("lightbox-more").hidden = !Object.keys(facts).length;
    this.#list(byId("lightbox-numbers"), facts);
  }

  #list(list, facts) {
    const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
    list.replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", text(value))]));
  }

  #pin(isPinned) {
    this.figure.classList.toggle("pinned", isPinned);
    byId("lightbox-eye").setAttribute("aria-pressed", isPinned);
    if (isPinned) loadAttention(this.figure);
  }

  #toggleAttention() {
    this.#pin(!this.figure.classList.contains("pinned"));
  }

  async #reveal() {
    const { textContent } = byId("lightbox-reveal");
    try {
      await fetchJson(`/api/reveal?key=${encodeURIComponent(this.#item.key)}`, { method: "POST" });
      byId("lightbox-reveal").textContent = textContent;
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      byId("lightbox-reveal").textContent = error.message;
    }
  }

  async #copy() {
    const copy = byId("lightbox-copy");
    try {
      await navigator.clipboard.writeText(this.#item.key);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("lightbox-path")); // no permission: select it instead
      copy.textContent = "Selected";
    }
  }
}

// What the gallery knows of an item, in the order in which people ask.
function factsOf({ properties, metadata }) {
  const { width, height, date, latitude, longitude, ...rest } = properties;
  const facts = {};
  if (width) facts.size = `${width} \u00d7 ${height}`;
  if (date) facts.taken = `${dateText(date)}, ${date.slice(11, 16)}`;
  if (latitude !== undefined) facts.place = `${latitude}, ${longitude}`;
  return { ...facts, ...rest, ...metadata };
}
