// One hit, large, and the next one by arrow key.

import { showBox } from "./boxes.js";
import { factsOf, metadataOf, nameOf, NO_THUMBNAIL } from "./cards.js";
import { byId, element, showImage, within } from "./dom.js";
import type { Found } from "./messages.js";

export class Lightbox {
  private readonly dialog = byId<HTMLDialogElement>("lightbox");
  private hits: readonly Found[] = [];
  private bits = 0;
  private position = 0;

  /** `search` is called with the slot of a hit to search from. */
  constructor(search: (slot: number) => void) {
    const on = (id: string, action: () => void): void => byId(id).addEventListener("click", action);
    on("lightbox-close", () => this.dialog.close());
    on("lightbox-before", () => this.step(-1));
    on("lightbox-after", () => this.step(1));
    on("lightbox-search", () => {
      this.dialog.close();
      search(this.hits[this.position]!.slot);
    });
    this.dialog.addEventListener("click", ({ target }) => {
      if (target === this.dialog) this.dialog.close(); // beside it
    });
    this.dialog.addEventListener("keydown", (event) => {
      const step = event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0;
      if (step === 0) return;
      event.preventDefault();
      this.step(step);
    });
  }

  open(hits: readonly Found[], position: number, bits: number): void {
    this.hits = hits;
    this.bits = bits;
    this.dialog.showModal();
    this.show(position);
  }

  private step(step: number): void {
    const position = this.position + step;
    if (position >= 0 && position < this.hits.length) this.show(position);
  }

  private show(position: number): void {
    this.position = position;
    const hit = this.hits[position]!;
    const figure = within(this.dialog, ".figure");
    showImage(figure, hit.thumbnail, NO_THUMBNAIL);
    showBox(figure, hit.thumbnail && hit.box);
    byId("lightbox-name").textContent = nameOf(hit.key);
    byId("lightbox-place").textContent = `${position + 1} of ${this.hits.length}`;
    byId<HTMLButtonElement>("lightbox-before").disabled = position === 0;
    byId<HTMLButtonElement>("lightbox-after").disabled = position === this.hits.length - 1;
    byId("lightbox-key").textContent = hit.key;
    byId("lightbox-facts").replaceChildren(
      ...[...factsOf(hit, this.bits), ...metadataOf(hit)].flatMap(([name, value]) => [
        element("dt", "", name),
        element("dd", "", value),
      ]),
    );
  }
}
