// Where to look again: from the maps of an image's likely classes to boxes.
//
// The rule of bitgaze.encoding.looks: evidence and probability are rounded first, and everything
// after that is computed in integers, so that Python and JavaScript choose alike.

import { roundEven } from "./numbers.js";

/** Left, top, right, bottom, in [0, 1] of the upright image. */
export type Box = readonly [number, number, number, number];

/** How a model chooses its looks: the entry `looks` of its contract. */
export interface LookRule {
  readonly most: number;
  readonly probability: number;
  readonly extent: number;
  readonly smallest: number;
  readonly largest: number;
  readonly side: number;
  readonly apart: number;
  readonly overlap: number;
  readonly kind: string;
}

/** Maps (count, height, width), row by row. */
export interface Maps {
  readonly data: Float32Array;
  readonly height: number;
  readonly width: number;
}

// Steps of the grid of boxes in a cell of the maps.
const STEPS = 4;
const LEVELS = 1024;
const LEVELS_OF_A_DOUBLING = 8;

type Cells = readonly [number, number, number, number];

interface Grid {
  readonly values: Float64Array; // whole numbers
  readonly height: number;
  readonly width: number;
}

/**
 * Choose up to `count` looks, the likeliest class first, the attention's peaks last.
 *
 * @param classMaps evidence of each class at each place.
 * @param probability of the classes, in the order of the maps.
 * @param attention one map.
 */
export function choose(
  classMaps: Maps,
  probability: Float32Array,
  attention: Maps,
  rule: LookRule,
  count: number,
): Box[] {
  const level = Array.from(probability, (p) =>
    roundEven(Math.fround(LEVELS_OF_A_DOUBLING * Math.fround(Math.log2(p)))),
  );
  const least = roundEven(LEVELS_OF_A_DOUBLING * Math.log2(rule.probability));
  const height = STEPS * classMaps.height;
  const width = STEPS * classMaps.width;
  const found: Cells[] = [];
  const order = level.map((_, row) => row).sort((a, b) => level[b]! - level[a]! || a - b);
  for (const row of order) {
    if (found.length === count || !(level[row]! >= least)) break;
    const evidence = enlarged(classMaps, row);
    if (evidence === null) continue;
    const [boxLeft, boxTop, boxRight, boxBottom] = aroundPeak(evidence, rule.extent);
    const [left, right] = bounded(boxLeft, boxRight, width, rule);
    const [top, bottom] = bounded(boxTop, boxBottom, height, rule);
    add(found, [left, top, right, bottom], rule);
  }
  const evidence = found.length < count ? enlarged(attention, 0) : null;
  if (evidence !== null) {
    const isFree = new Uint8Array(evidence.values.length).fill(1);
    for (const box of found) take(isFree, evidence, box[0] + box[2], box[1] + box[3], rule);
    while (found.length < count) {
      const peak = argmax(evidence.values, isFree);
      if (peak < 0) break;
      const y = Math.floor(peak / evidence.width);
      const x = peak % evidence.width;
      const [left, right] = centred(x, rule.side, width);
      const [top, bottom] = centred(y, rule.side, height);
      add(found, [left, top, right, bottom], rule);
      take(isFree, evidence, 2 * x + 1, 2 * y + 1, rule);
    }
  }
  return found.map((box) => [
    box[0] / width,
    box[1] / height,
    box[2] / width,
    box[3] / height,
  ]);
}

// Evidence at the steps of the grid, by linear interpolation; null if there is none.
function enlarged(maps: Maps, row: number): Grid | null {
  const cells = maps.height * maps.width;
  const map = maps.data.subarray(row * cells, (row + 1) * cells);
  let peak = -Infinity;
  for (const value of map) {
    if (Number.isNaN(value)) return null;
    peak = Math.max(peak, value);
  }
  if (!(peak > 0)) return null;
  // Evidence against the class, however strong, is no more than a neighbour can bear.
  const levels = Float64Array.from(map, (value) =>
    roundEven(Math.fround(Math.max(Math.fround(value / peak), -8) * LEVELS)),
  );
  const height = STEPS * maps.height;
  const width = STEPS * maps.width;
  const values = new Float64Array(height * width);
  for (let y = 0; y < height; y++) {
    const [top, down] = interpolation(y, maps.height);
    for (let x = 0; x < width; x++) {
      const [left, across] = interpolation(x, maps.width);
      let sum = 0;
      for (let j = 0; j < 2; j++) {
        for (let i = 0; i < 2; i++) {
          const weight = (j ? down : 2 * STEPS - down) * (i ? across : 2 * STEPS - across);
          if (weight) sum += weight * levels[(top + j) * maps.width + left + i]!;
        }
      }
      values[y * width + x] = sum;
    }
  }
  return { values, height, width };
}

// The cell before a step, and the weight of the next one, in units of 1 / (2 STEPS).
function interpolation(step: number, cells: number): [number, number] {
  const unit = 2 * STEPS;
  const place = Math.min(Math.max(2 * step + 1 - STEPS, 0), unit * (cells - 1));
  return [Math.floor(place / unit), place % unit];
}

function argmax(values: Float64Array, isFree?: Uint8Array): number {
  let best = -1;
  for (let i = 0; i < values.length; i++) {
    if (isFree && !isFree[i]) continue;
    if (best < 0 || values[i]! > values[best]!) best = i;
  }
  return best;
}

// The box that grows from the peak as long as evidence next to it is above the share.
function aroundPeak(evidence: Grid, extent: number): Cells {
  const { values, height, width } = evidence;
  const peak = argmax(values);
  const least = roundEven(extent * LEVELS) * values[peak]!;
  const isPart = (y: number, x: number): boolean => values[y * width + x]! * LEVELS >= least;
  let top = Math.floor(peak / width);
  let left = peak % width;
  let right = left + 1;
  let bottom = top + 1;
  const anyInColumn = (x: number): boolean => {
    for (let y = top; y < bottom; y++) if (isPart(y, x)) return true;
    return false;
  };
  const anyInRow = (y: number): boolean => {
    for (let x = left; x < right; x++) if (isPart(y, x)) return true;
    return false;
  };
  for (;;) {
    const before = right - left + bottom - top;
    while (left > 0 && anyInColumn(left - 1)) left--;
    while (right < width && anyInColumn(right)) right++;
    while (top > 0 && anyInRow(top - 1)) top--;
    while (bottom < height && anyInRow(bottom)) bottom++;
    if (right - left + bottom - top === before) return [left, top, right, bottom];
  }
}

// Keeps the middle of a range, its length within bounds, and the whole within the image.
function bounded(low: number, high: number, side: number, rule: LookRule): [number, number] {
  const smallest = roundEven(rule.smallest * side);
  const largest = roundEven(rule.largest * side);
  const length = Math.max(Math.min(Math.max(high - low, smallest), largest), 1);
  const start = Math.min(Math.max(Math.floor((low + high - length) / 2), 0), side - length);
  return [start, start + length];
}

// A range of this share of the side around a step, within the image.
function centred(place: number, share: number, side: number): [number, number] {
  const length = Math.max(roundEven(share * side), 1);
  const start = Math.min(Math.max(Math.floor((2 * place + 1 - length) / 2), 0), side - length);
  return [start, start + length];
}

function add(found: Cells[], box: Cells, rule: LookRule): void {
  if (found.every((other) => overlap(box, other) < rule.overlap)) found.push(box);
}

// Leaves no peak near a place, which is given in half steps.
function take(isFree: Uint8Array, grid: Grid, x: number, y: number, rule: LookRule): void {
  const reach = (rule.apart * 2 * grid.height * grid.width) ** 2;
  for (let row = 0; row < grid.height; row++) {
    const down = (2 * row + 1 - y) * grid.width;
    for (let column = 0; column < grid.width; column++) {
      const across = (2 * column + 1 - x) * grid.height;
      if (down * down + across * across < reach) isFree[row * grid.width + column] = 0;
    }
  }
}

// Intersection over union.
function overlap(one: Cells, other: Cells): number {
  const width = Math.min(one[2], other[2]) - Math.max(one[0], other[0]);
  const height = Math.min(one[3], other[3]) - Math.max(one[1], other[1]);
  const common = Math.max(width, 0) * Math.max(height, 0);
  return common / (area(one) + area(other) - common);
}

function area(box: Cells): number {
  return (box[2] - box[0]) * (box[3] - box[1]);
}
