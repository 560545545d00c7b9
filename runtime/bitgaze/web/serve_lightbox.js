// One image, large: what is known of it, where it matches, and the next one by arrow key.

import { RequestError, fetchJson } from "/serve_api.js";
import { imageOf, inBits, loadAttention, showImage } from "/serve_cards.js";
import { byId, element } from "/serve_dom.js";
import { showBox } from "/serve_region.js";

const SIDE = 1600; // pixels

export class Lightbox {
  #items = [];
  #position = 0;
  #opener;

  // `search` is called with the key of an item to search from.
  constructor(search) {
    this.dialog = byId("lightbox");
    this.figure = this.dialog.querySelector(".figure");
    const on = (id, action) => byId(id).addEventListener("click", action);
    on("lightbox-close", () => this.dialog.close());
    on("lightbox-before", () => this.#step(-1));
    on("lightbox-after", () => this.#step(1));
    on("lightbox-eye", () => this.#toggleAttention());
    on("lightbox-copy", () => this.#copy());
    on("lightbox-search", () => {
      this.dialog.close();
      search(this.#items[this.#position].key);
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

  // `bits` is the length of a code; `opener` gets the focus back.
  open(items, position, bits, opener) {
    this.#items = items;
    this.#opener = opener;
    this.bits = bits;
    this.dialog.showModal();
    this.#show(position);
  }

  #step(step) {
    const position = this.#position + step;
    if (position >= 0 && position < this.#items.length) this.#show(position);
  }

  async #show(position) {
    this.#position = position;
    const item = this.#items[position];
    const { image, ...rest } = imageOf(item);
    const large = (address) => address && `${address}&size=${SIDE}`;
    showImage(this.figure, { ...rest, image: large(image), attention: large(rest.attention) }, item.name);
    showBox(this.figure, item.box);
    byId("lightbox-eye").hidden = !image;
    this.#pin(false);
    byId("lightbox-name").textContent = item.name;
    byId("lightbox-place").textContent = `${position + 1} of ${this.#items.length}`;
    byId("lightbox-before").disabled = position === 0;
    byId("lightbox-after").disabled = position === this.#items.length - 1;
    byId("lightbox-path").textContent = item.key;
    byId("lightbox-copy").textContent = "Copy path";
    const facts = Object.entries(item.chances).map(([name, chance]) => [name, chance]);
    if (item.distance !== undefined) facts.push(["bits that differ", `${inBits(item.distance)} of ${this.bits}`]);
    this.#list([...facts, ...Object.entries(item.metadata)]);
    try {
      const found = await fetchJson(`/api/item?key=${encodeURIComponent(item.key)}`);
      if (this.#items[this.#position] !== item) return; // the next one is shown by now
      const { width, height, ...properties } = found.properties;
      if (width) facts.push(["size", `${width} x ${height}`]);
      this.#list([...facts, ...Object.entries(properties), ...Object.entries(found.metadata)]);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error; // else what the search said is shown
    }
  }

  #list(facts) {
    const text = (value) => (typeof value === "object" ? JSON.stringify(value) : String(value));
    byId("lightbox-facts").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", text(value))]));
  }

  #pin(isPinned) {
    this.figure.classList.toggle("pinned", isPinned);
    byId("lightbox-eye").setAttribute("aria-pressed", isPinned);
    if (isPinned) loadAttention(this.figure);
  }

  #toggleAttention() {
    this.#pin(!this.figure.classList.contains("pinned"));
  }

  async #copy() {
    const button = byId("lightbox-copy");
    try {
      await navigator.clipboard.writeText(this.#items[this.#position].key);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(byId("lightbox-path")); // no permission: select it instead
      button.textContent = "Selected";
    }
  }
}
