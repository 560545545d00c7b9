// A search: the items of a gallery whose codes are nearest to those of a query.

import type { Encoded } from "./encode.js";
import type { FlatGallery } from "./flat.js";
import type { Box } from "./looks.js";
import { roundEven } from "./numbers.js";

/** An item that a search has found. */
export interface Hit {
  readonly slot: number;
  readonly key: string;
  readonly metadata: Readonly<Record<string, unknown>>;
  /** Bits that differ; of a gallery with looks the mean number over the codes of both sides. */
  readonly distance: number;
  /** Probability that both show the same kind of thing; null if it is not known. */
  readonly sameKind: number | null;
  /** The part of the item's image that matches best, in [0, 1]; null for the whole image. */
  readonly box: Box | null;
  /** The part of the query that it matches; null for the whole image. */
  readonly queryBox: Box | null;
}

export interface SearchOptions {
  /** Largest number of hits. */
  readonly k?: number;
  /** Largest distance, in bits. */
  readonly radius?: number;
  /** A bit for each item that may be found: bit i % 8 of byte i / 8. */
  readonly filter?: Uint8Array;
}

/** Codes to search for: `encode` returns some, and `queryOf` those of an item. */
export type Query = Pick<Encoded, "fingerprint" | "adaptation" | "bits" | "codes" | "boxes">;

// In the example images, with 25 subjects, one image in twenty has the same subject as a given one.
const KIND_ODDS = 1 / 19;

/** The query that finds what looks like an item of the gallery. */
export async function queryOf(gallery: FlatGallery, slot: number): Promise<Query> {
  return {
    fingerprint: gallery.model ?? "",
    adaptation: gallery.adaptation?.fingerprint ?? null,
    bits: gallery.bits,
    codes: gallery.codes(slot),
    boxes: await gallery.boxes(slot),
  };
}

/**
 * Up to k items nearest to a query, by distance and then slot. Exact.
 *
 * @throws RangeError if an option is out of range; Error if the query is of another model, of another
 *   adaptation, or has several codes where the gallery's items have one.
 */
export async function search(
  gallery: FlatGallery,
  query: Query,
  options: SearchOptions = {},
): Promise<Hit[]> {
  const { k = 10, radius = gallery.bits, filter = null } = options;
  check(gallery, query, k, radius, filter);
  const unit = unitOf(gallery, query);
  const most = Math.floor(Math.min(radius, gallery.bits) * unit);
  const { distances, slots } = gallery.store.nearest(query.codes, k, most, filter);
  return Promise.all(
    Array.from(slots, async (slot, i) => {
      const item = await gallery.item(slot);
      const distance = distances[i]! / unit;
      const [ofQuery, ofItem] = nearestPair(gallery, query, slot);
      const boxes = await gallery.boxes(slot);
      const sameKind = kindAt(gallery, query, distance);
      return { ...item, distance, sameKind, box: boxes[ofItem]!, queryBox: query.boxes[ofQuery]! };
    }),
  );
}

function check(
  gallery: FlatGallery,
  query: Query,
  k: number,
  radius: number,
  filter: Uint8Array | null,
): void {
  if (!(Number.isInteger(k) && k >= 1)) throw new RangeError(`k is ${k}, expected at least 1`);
  if (!(radius >= 0)) throw new RangeError(`radius is ${radius}, expected at least 0`);
  if (query.fingerprint !== (gallery.model ?? "")) {
    throw new Error(
      `the query is of model ${query.fingerprint.slice(0, 12)}, the gallery of ` +
        `${gallery.model?.slice(0, 12) ?? "codes of its own"}: their distances mean nothing`,
    );
  }
  if (query.adaptation !== (gallery.adaptation?.fingerprint ?? null)) {
    throw new Error("the query lacks the gallery's adaptation: encode it with `gallery.adaptation`");
  }
  if (query.bits !== gallery.bits) {
    throw new Error(`the query's codes have ${query.bits} bits, those of the gallery ${gallery.bits}`);
  }
  const views = viewsOf(query);
  if (gallery.looks === 0 ? views !== 1 : !(Number.isInteger(views) && views >= 1 && views <= 8)) {
    const expected = gallery.looks === 0 ? "1" : "1 to 8";
    throw new Error(`the query has ${views} codes, expected ${expected} in this gallery`);
  }
  const filterBytes = Math.ceil(gallery.items / 8);
  if (filter && filter.length !== filterBytes) {
    throw new RangeError(`the filter has ${filter.length} bytes, expected ${filterBytes}`);
  }
}

function viewsOf(query: Query): number {
  return (8 * query.codes.length) / query.bits;
}

// How many units a bit has, since distances are whole numbers; see `view_unit` in csrc/hamming/view_search.h.
function unitOf(gallery: FlatGallery, query: Query): number {
  if (gallery.looks === 0) return 1;
  const [one, other] = [viewsOf(query), 1 + gallery.looks];
  let multiple = one;
  while (multiple % other !== 0) multiple += one;
  return 2 * multiple;
}

// The views with the lowest distance; of equal ones the first of the query, then of the item.
function nearestPair(gallery: FlatGallery, query: Query, slot: number): [number, number] {
  const width = gallery.bits / 8;
  const codes = gallery.codes(slot);
  let best = [0, 0] as [number, number];
  let least = Infinity;
  for (let a = 0; a < query.codes.length / width; a++) {
    for (let b = 0; b < codes.length / width; b++) {
      let distance = 0;
      for (let i = 0; i < width; i++) {
        distance += BITS[query.codes[a * width + i]! ^ codes[b * width + i]!]!;
      }
      if (distance < least) {
        least = distance;
        best = [a, b];
      }
    }
  }
  return best;
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

// The tables are of whole images with the gallery's number of looks.
function kindAt(gallery: FlatGallery, query: Query, distance: number): number | null {
  const isMeasured = viewsOf(query) === 1 + gallery.looks;
  const even = isMeasured ? gallery.calibration?.kind[roundEven(distance)] : undefined;
  return even === undefined ? null : even / (even + (1 - even) / KIND_ODDS);
}
