// Resizes pixels as Pillow does, to the bit: whole factors first (Image.reduce), then a filter
// (Image.resize), both in integers. Codes are comparable only if their images went the same way.

/** An image: RGB, row by row. */
export interface Pixels {
  readonly width: number;
  readonly height: number;
  /** 3 * width * height numbers. */
  readonly data: Uint8Array | Uint8ClampedArray;
}

// Of a pixel: boxes may have been rounded to 16 bits in a gallery.
const ROUNDING = 1 / 16;

export type Filter = "bicubic" | "bilinear";

// Pillow may first shrink by whole factors, down to this multiple of the target.
const REDUCING_GAP = 2;
// Weights are integers with this many bits after the point (Pillow's Resample.c).
const PRECISION_BITS = 32 - 8 - 2;
const SUPPORT = { bicubic: 2, bilinear: 1 };

/** `Image.resize((size, size), filter, reducing_gap=2)`. */
export function resize(image: Pixels, size: number, filter: Filter): Pixels {
  if (image.width === size && image.height === size) return image;
  const factorX = Math.trunc(image.width / size / REDUCING_GAP) || 1;
  const factorY = Math.trunc(image.height / size / REDUCING_GAP) || 1;
  // Pillow keeps the box as floats of 32 bits.
  const width = Math.fround(image.width / factorX);
  const height = Math.fround(image.height / factorY);
  const reduced = factorX > 1 || factorY > 1 ? reduce(image, factorX, factorY) : image;
  const columns = weights(reduced.width, width, size, filter);
  const rows = weights(reduced.height, height, size, filter);
  // The height goes first if it loses more than twice as much as the width, as in resizing.py.
  // Between the passes values are rounded, so the order shows in a few of the last digits.
  const lost = reduced.height - size;
  return lost > 0 && lost > 2 * (reduced.width - size)
    ? horizontal(vertical(reduced, rows, height), columns, width)
    : vertical(horizontal(reduced, columns, width), rows, height);
}

/** The part of an image in a box, in [0, 1], with its edges moved out to whole pixels. */
export function crop(image: Pixels, box: readonly [number, number, number, number]): Pixels {
  const [left, right] = edges(box[0], box[2], image.width);
  const [top, bottom] = edges(box[1], box[3], image.height);
  const row = 3 * (right - left);
  const data = new Uint8Array(row * (bottom - top));
  for (let y = top; y < bottom; y++) {
    const from = 3 * (y * image.width + left);
    data.set(image.data.subarray(from, from + row), row * (y - top));
  }
  return { width: right - left, height: bottom - top, data };
}

function edges(low: number, high: number, side: number): [number, number] {
  const first = Math.min(Math.floor(low * side + ROUNDING), side - 1);
  return [first, Math.max(Math.ceil(high * side - ROUNDING), first + 1)];
}

/** `Image.reduce`: means of blocks; those at the right and lower edge may be smaller. */
export function reduce(image: Pixels, factorX: number, factorY: number): Pixels {
  const { width, height, data } = image;
  const outWidth = Math.ceil(width / factorX);
  const outHeight = Math.ceil(height / factorY);
  const out = new Uint8Array(3 * outWidth * outHeight);
  let at = 0;
  for (let y = 0; y < outHeight; y++) {
    const rows = Math.min(factorY, height - y * factorY);
    for (let x = 0; x < outWidth; x++) {
      const columns = Math.min(factorX, width - x * factorX);
      const count = rows * columns;
      let red = count >> 1;
      let green = red;
      let blue = red;
      for (let j = 0; j < rows; j++) {
        let from = 3 * ((y * factorY + j) * width + x * factorX);
        for (let i = 0; i < columns; i++, from += 3) {
          red += data[from]!;
          green += data[from + 1]!;
          blue += data[from + 2]!;
        }
      }
      const multiplier = reciprocal(count);
      out[at++] = Math.imul(red, multiplier) >>> 24;
      out[at++] = Math.imul(green, multiplier) >>> 24;
      out[at++] = Math.imul(blue, multiplier) >>> 24;
    }
  }
  return { width: outWidth, height: outHeight, data: out };
}

// 2^24 / divider, rounded as Pillow's floats are (division_UINT32 in ImagingUtils.h).
function reciprocal(divider: number): number {
  return Math.trunc(Math.fround(4294967296 / Math.fround(256 * divider)));
}

// For each output place: where its pixels start, how many there are, and their weights.
interface Weights {
  readonly size: number;
  readonly first: Int32Array;
  readonly count: Int32Array;
  readonly each: number;
  readonly values: Int32Array;
}

function weights(inSize: number, box: number, size: number, filter: Filter): Weights {
  const scale = box / size;
  const filterScale = Math.max(scale, 1);
  const support = SUPPORT[filter] * filterScale;
  const each = 2 * Math.ceil(support) + 1;
  const first = new Int32Array(size);
  const count = new Int32Array(size);
  const values = new Int32Array(size * each);
  const exact = new Float64Array(each);
  for (let place = 0; place < size; place++) {
    const centre = (place + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - support + 0.5), 0);
    const number = Math.min(Math.trunc(centre + support + 0.5), inSize) - low;
    let sum = 0;
    for (let i = 0; i < number; i++) {
      exact[i] = kernel(filter, (i + low - centre + 0.5) * (1 / filterScale));
      sum += exact[i]!;
    }
    for (let i = 0; i < number; i++) {
      const weight = (sum === 0 ? exact[i]! : exact[i]! / sum) * (1 << PRECISION_BITS);
      values[place * each + i] = Math.trunc(weight < 0 ? weight - 0.5 : weight + 0.5);
    }
    first[place] = low;
    count[place] = number;
  }
  return { size, first, count, each, values };
}

function kernel(filter: Filter, place: number): number {
  const x = Math.abs(place);
  if (filter === "bilinear") return x < 1 ? 1 - x : 0;
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

function clipped(sum: number): number {
  const value = sum >> PRECISION_BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

const HALF = 1 << (PRECISION_BITS - 1);

function horizontal(image: Pixels, weights: Weights, box: number): Pixels {
  if (weights.size === image.width && box === weights.size) return image;
  const { size, first, count, each, values } = weights;
  const out = new Uint8Array(3 * size * image.height);
  let at = 0;
  for (let y = 0; y < image.height; y++) {
    for (let x = 0; x < size; x++) {
      let from = 3 * (y * image.width + first[x]!);
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      for (let w = x * each, end = w + count[x]!; w < end; w++, from += 3) {
        const weight = values[w]!;
        red += image.data[from]! * weight;
        green += image.data[from + 1]! * weight;
        blue += image.data[from + 2]! * weight;
      }
      out[at++] = clipped(red);
      out[at++] = clipped(green);
      out[at++] = clipped(blue);
    }
  }
  return { width: size, height: image.height, data: out };
}

function vertical(image: Pixels, weights: Weights, box: number): Pixels {
  if (weights.size === image.height && box === weights.size) return image;
  const { size, first, count, each, values } = weights;
  const row = 3 * image.width;
  const out = new Uint8Array(row * size);
  const sums = new Int32Array(row);
  for (let y = 0; y < size; y++) {
    sums.fill(HALF);
    for (let i = 0; i < count[y]!; i++) {
      const weight = values[y * each + i]!;
      const from = row * (first[y]! + i);
      for (let x = 0; x < row; x++) sums[x] = sums[x]! + image.data[from + x]! * weight;
    }
    for (let x = 0; x < row; x++) out[y * row + x] = clipped(sums[x]!);
  }
  return { width: image.width, height: size, data: out };
}
