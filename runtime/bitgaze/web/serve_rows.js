// Rows of images: the shape of each, the size of its thumbnail, and arrow keys from one to the next.

// Of width to height. A narrower or wider image leaves a margin: below it, its name would have no room,
// or it would fill the row alone.
const NARROWEST = 0.62;
const WIDEST = 3.2;
const UNKNOWN = 4 / 3;

export function shapeOf({ width, height }) {
  const ratio = width && height ? width / height : UNKNOWN;
  return Math.min(WIDEST, Math.max(NARROWEST, ratio));
}

// Sets the shape of a list item before its image has loaded.
export const setShape = (card, item) => card.style.setProperty("--ratio", shapeOf(item).toFixed(4));

// The side in pixels of a thumbnail that is sharp in a row on this screen; few, so that they are kept.
export const thumbnailSide = () => (devicePixelRatio > 1.3 || innerWidth > 1700 ? 640 : 400);

// Moves the focus among some elements by arrow key: left and right in their order, up and down to the
// nearest in the row above or below, since rows have different columns.
export function moveByArrow(event, all) {
  const position = all.indexOf(event.target);
  const { key } = event;
  if (position < 0 || !key.startsWith("Arrow") || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  if (key === "ArrowRight" || key === "ArrowLeft") return all[position + (key === "ArrowRight" ? 1 : -1)]?.focus();
  const boxOf = (one) => one.getBoundingClientRect();
  const own = boxOf(event.target);
  const middle = (box) => (box.left + box.right) / 2;
  const isDown = key === "ArrowDown";
  // How far away another row begins, in the direction; 0 or less: not in the direction.
  const away = (box) => (isDown ? box.top - own.top : own.top - box.top);
  const beyond = all.map((one) => [one, boxOf(one)]).filter(([, box]) => away(box) > own.height / 2);
  const nearest = Math.min(...beyond.map(([, box]) => away(box)));
  const row = beyond.filter(([, box]) => away(box) < nearest + 8);
  const distance = ([, box]) => Math.abs(middle(box) - middle(own));
  row.sort((a, b) => distance(a) - distance(b));
  row[0]?.[0].focus();
}
