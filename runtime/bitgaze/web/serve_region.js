// A part of the query: draw a rectangle on it by mouse, touch or keyboard, or choose one of the looks.
// Boxes are [x0, y0, x1, y1], as shares of the image's width and height.

import { element } from "/serve_dom.js";

const SMALLEST = 0.05; // of a side; a shorter drag is a click
const STEP = 0.05; // of a side, for each arrow key

// The part of a figure that its image covers: [left, top, width, height], as shares of the figure.
// The figure keeps its shape, so these hold at any size.
function covered(figure) {
  const image = figure.querySelector(".image");
  const { width, height } = figure.getBoundingClientRect();
  if (!image.naturalWidth || !width) return [0, 0, 1, 1];
  const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
  const [w, h] = [(image.naturalWidth * scale) / width, (image.naturalHeight * scale) / height];
  return [(1 - w) / 2, (1 - h) / 2, w, h];
}

function place(part, figure, [x0, y0, x1, y1]) {
  const [left, top, width, height] = covered(figure);
  const percent = (share) => `${100 * share}%`;
  part.style.left = percent(left + x0 * width);
  part.style.top = percent(top + y0 * height);
  part.style.width = percent((x1 - x0) * width);
  part.style.height = percent((y1 - y0) * height);
}

// Draws a box on a figure, now and whenever its image has loaded; null removes it.
export function showBox(figure, box) {
  figure.querySelector(".box")?.remove();
  if (!box) return;
  const part = figure.appendChild(element("span", "box"));
  part.setAttribute("aria-hidden", "true");
  const image = figure.querySelector(".image");
  const draw = () => place(part, figure, box);
  if (image.complete) draw();
  image.addEventListener("load", draw, { once: true });
}

export const boxOf = (text) => text?.split(",").map(Number) ?? null;
export const textOf = (box) => box.map((share) => share.toFixed(4)).join(",");

// The query's figure, on which a person chooses a region; `search` is called with the box, or with
// null for the whole image.
export class RegionChooser {
  constructor(figure, button, search) {
    Object.assign(this, { figure, button, search, box: null, looks: [], isEnabled: false });
    this.frame = element("div", "region");
    this.frame.tabIndex = 0;
    this.frame.setAttribute("role", "group");
    this.frame.setAttribute("aria-label", "Part of the image. Arrow keys move it, Shift with an arrow key resizes it, Enter searches, Escape returns to the whole image.");
    this.frame.hidden = true;
    figure.append(this.frame);
    figure.addEventListener("pointerdown", (event) => this.#start(event));
    figure.addEventListener("pointermove", (event) => this.#drag(event));
    figure.addEventListener("pointerup", () => this.#end());
    figure.addEventListener("pointercancel", () => this.#cancel());
    figure.querySelector(".image").addEventListener("load", () => this.#draw());
    this.frame.addEventListener("keydown", (event) => this.#press(event));
    button.addEventListener("click", () => (this.box ? this.search(null) : this.#choose()));
  }

  // `looks` are the boxes where the model looked again; `box` is the region of this search, or null.
  show({ box, looks, isEnabled }) {
    Object.assign(this, { box, looks: looks ?? [], isEnabled });
    this.searched = box;
    this.button.hidden = !isEnabled && !box;
    this.button.textContent = box ? "Search the whole image" : "Search a part of it";
    this.figure.classList.toggle("drawable", isEnabled);
    this.#draw();
  }

  // Whether the last pointer drew a rectangle, so that its click means nothing else.
  get hasDragged() {
    return Boolean(this.dragged);
  }

  #draw() {
    this.frame.hidden = !this.box;
    if (this.box) place(this.frame, this.figure, this.box);
    for (const old of this.figure.querySelectorAll(".look")) old.remove();
    if (this.box || !this.isEnabled) return;
    // Small ones last, on top of those that they lie in.
    const area = ([x0, y0, x1, y1]) => (x1 - x0) * (y1 - y0);
    [...this.looks].sort((a, b) => area(b) - area(a)).forEach((box, i) => {
      const part = element("button", "look");
      part.type = "button";
      part.setAttribute("aria-label", `Search for what is here (look ${i + 1} of ${this.looks.length})`);
      part.addEventListener("click", (event) => {
        event.stopPropagation();
        if (!this.hasDragged) this.search(box);
      });
      this.figure.append(part);
      place(part, this.figure, box);
    });
  }

  #choose() {
    this.box = this.looks[0] ?? [0.25, 0.25, 0.75, 0.75];
    this.#draw();
    this.frame.focus();
  }

  #point(event) {
    const [left, top, width, height] = covered(this.figure);
    const { x, y, width: w, height: h } = this.figure.getBoundingClientRect();
    const clamp = (share) => Math.min(1, Math.max(0, share));
    return [clamp(((event.clientX - x) / w - left) / width), clamp(((event.clientY - y) / h - top) / height)];
  }

  #start(event) {
    this.dragged = null;
    if (!this.isEnabled || event.button !== 0) return;
    this.from = this.#point(event);
  }

  #drag(event) {
    if (!this.from) return;
    const [x, y] = this.#point(event);
    const [a, b] = this.from;
    const box = [Math.min(a, x), Math.min(b, y), Math.max(a, x), Math.max(b, y)];
    if (!this.dragged && (box[2] - box[0] < SMALLEST || box[3] - box[1] < SMALLEST)) return;
    if (!this.dragged) this.figure.setPointerCapture(event.pointerId); // not before: it would take the clicks of looks
    this.dragged = box;
    this.box = box;
    this.#draw();
  }

  #end() {
    this.from = null;
    const box = this.dragged;
    if (!box) return;
    setTimeout(() => (this.dragged = null)); // after the click that follows
    if (box[2] - box[0] < SMALLEST || box[3] - box[1] < SMALLEST) this.#cancel();
    else this.search(box);
  }

  #cancel() {
    this.from = this.dragged = null;
    this.box = this.searched;
    this.#draw();
  }

  #press(event) {
    const steps = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    if (event.key === "Enter") this.search(this.box);
    else if (event.key === "Escape") {
      if (this.searched) this.search(null);
      else this.#cancel();
      this.button.focus();
    } else if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      let [x0, y0, x1, y1] = this.box;
      if (event.shiftKey) {
        x1 = Math.min(1, Math.max(x0 + SMALLEST, x1 + dx));
        y1 = Math.min(1, Math.max(y0 + SMALLEST, y1 + dy));
      } else {
        const [sx, sy] = [Math.min(1 - x1, Math.max(-x0, dx)), Math.min(1 - y1, Math.max(-y0, dy))];
        [x0, y0, x1, y1] = [x0 + sx, y0 + sy, x1 + sx, y1 + sy];
      }
      this.box = [x0, y0, x1, y1];
      place(this.frame, this.figure, this.box);
    } else return;
    event.preventDefault();
  }
}
