// A frame around a part of an image in a figure, wherever the figure lets the image lie.

import type { Box } from "../src/looks.js";
import { within } from "./dom.js";

/** Draw one box, or none. */
export function showBox(figure: HTMLElement, box: Box | null): void {
  figure.querySelector(".box")?.remove();
  if (box === null) return;
  const picture = within<HTMLImageElement>(figure, ".image");
  const frame = document.createElement("span");
  frame.className = "box";
  const place = (): void => {
    const { naturalWidth, naturalHeight, offsetWidth, offsetHeight } = picture;
    if (!naturalWidth || !offsetWidth) return;
    const scale = Math.min(offsetWidth / naturalWidth, offsetHeight / naturalHeight);
    const [width, height] = [naturalWidth * scale, naturalHeight * scale];
    const [x, y] = [(offsetWidth - width) / 2, (offsetHeight - height) / 2];
    frame.style.left = `${x + box[0] * width}px`;
    frame.style.top = `${y + box[1] * height}px`;
    frame.style.width = `${(box[2] - box[0]) * width}px`;
    frame.style.height = `${(box[3] - box[1]) * height}px`;
  };
  picture.after(frame);
  picture.addEventListener("load", place, { once: true });
  const sizes = new ResizeObserver(() => (frame.isConnected ? place() : sizes.disconnect()));
  sizes.observe(picture);
  place();
}
