// An image to codes: the whole image and looks at parts of it, each through the network alone.

import type { InferenceSession, Tensor } from "onnxruntime-common";

import type { Adaptation } from "./flat.js";
import { choose, type Box } from "./looks.js";
import type { Model } from "./model.js";
import { decode, type Source } from "./decode.js";
import { crop, resize, type Pixels } from "./resize.js";

/** The codes of one image. */
export interface Encoded {
  /** Identity of the model; of the adaptation, or null. A search compares them. */
  readonly fingerprint: string;
  readonly adaptation: string | null;
  readonly bits: number;
  /**
   * Codes of the image, then of its looks: bits / 8 bytes each, one after the other; the first bit
   * is the most significant bit of byte 0. An image with fewer places to look at repeats its own.
   */
  readonly codes: Uint8Array;
  /** Where the codes are from, in [0, 1] of the upright image; null for the whole image. */
  readonly boxes: readonly (Box | null)[];
  /** Hash values of each code, in the same order: a bit is set where its value is above 0. */
  readonly hashes: Float32Array;
  /** Where the network looked: rows of values in [0, 1], over the whole image. */
  readonly attention: { readonly height: number; readonly width: number; readonly data: Float32Array };
}

export interface EncodeOptions {
  /** How many times to look again at parts of the image; a search requires the gallery's number. */
  readonly looks?: number;
  /** Of the gallery, if it has one. */
  readonly adaptation?: Adaptation | null;
}

/**
 * Compute the codes of an image.
 *
 * @param source a file's content (a Blob; browsers decode it, Node does not), or pixels.
 * @throws RangeError if the model does not allow that many looks, or pixels do not have the length of
 *   an image.
 * @throws DecodeError if the browser cannot decode the file.
 */
export async function encode(
  model: Model,
  source: Source | Pixels,
  options: EncodeOptions = {},
): Promise<Encoded> {
  const { looks = 0, adaptation = null } = options;
  const { bits, preprocess, looks: rule } = model.contract;
  if (!Number.isInteger(looks) || looks < 0 || looks > (rule?.most ?? 0)) {
    throw new RangeError(`looks is ${looks}, expected 0 to ${rule?.most ?? 0} with this model`);
  }
  // Enough pixels that the smallest look is not enlarged, if the image has them.
  const shorterSide = looks ? Math.ceil(preprocess.size / rule!.smallest) : preprocess.size;
  const image = "data" in source ? pixels(source) : await decode(source, shorterSide);
  const prepared = (part: Pixels): Pixels => resize(part, preprocess.size, preprocess.filter);

  const names = looks ? ["class_maps", "class_probability"] : [];
  const whole = await run(model, prepared(image), ["code", "hash", "attention", ...names]);
  const attention = map(whole.attention!);
  const codes = [whole.code!.data as Uint8Array];
  const hashes = [whole.hash!.data as Float32Array];
  const boxes: (Box | null)[] = [null];
  if (looks) {
    const probability = whole.class_probability!.data as Float32Array;
    for (const box of choose(map(whole.class_maps!), probability, attention, rule!, looks)) {
      const part = await run(model, prepared(crop(image, box)), ["code", "hash"]);
      codes.push(part.code!.data as Uint8Array);
      hashes.push(part.hash!.data as Float32Array);
      boxes.push(box);
    }
  }
  while (codes.length < 1 + looks) {
    codes.push(codes[0]!);
    hashes.push(hashes[0]!);
    boxes.push(null);
  }
  const values = new Float32Array(hashes.length * bits);
  const packed = new Uint8Array((codes.length * bits) / 8);
  for (let view = 0; view < codes.length; view++) {
    if (!hashes[view]!.every(Number.isFinite)) {
      throw new RangeError("the model computes hash values that are not finite for this image");
    }
    const adapted = adaptation ? rotated(hashes[view]!, adaptation) : hashes[view]!;
    values.set(adapted, view * bits);
    packed.set(adaptation ? pack(adapted) : codes[view]!, (view * bits) / 8);
  }
  return {
    fingerprint: model.fingerprint,
    adaptation: adaptation?.fingerprint ?? null,
    bits,
    codes: packed,
    boxes,
    hashes: values,
    attention,
  };
}

function pixels(image: Pixels): Pixels {
  const { width, height, data } = image;
  if (!(width > 0 && height > 0 && data.length === 3 * width * height)) {
    throw new RangeError(
      `pixels of ${width} x ${height} have ${data.length} numbers, expected 3 for each pixel: RGB`,
    );
  }
  return image;
}

async function run(
  model: Model,
  image: Pixels,
  names: readonly string[],
): Promise<InferenceSession.OnnxValueMapType> {
  const data = new Uint8Array(image.data.buffer, image.data.byteOffset, image.data.byteLength);
  const input = new model.runtime.Tensor("uint8", data, [1, image.height, image.width, 3]);
  return model.session.run({ image: input }, names);
}

function map(value: InferenceSession.OnnxValueMapType[string]): {
  data: Float32Array;
  height: number;
  width: number;
} {
  const { data, dims } = value as Tensor;
  return { data: data as Float32Array, height: dims.at(-2)!, width: dims.at(-1)! };
}

// (hash - offset) @ rotation, in double precision, as Python computes it.
function rotated(hash: Float32Array, adaptation: Adaptation): Float32Array {
  const bits = hash.length;
  const { offset, rotation } = adaptation;
  if (offset.length !== bits) {
    throw new RangeError(`the adaptation is for ${offset.length} bits, the model has ${bits}`);
  }
  const sums = new Float64Array(bits);
  for (let i = 0; i < bits; i++) {
    const value = hash[i]! - offset[i]!;
    for (let j = 0; j < bits; j++) sums[j] = sums[j]! + value * rotation[i * bits + j]!;
  }
  return Float32Array.from(sums);
}

function pack(values: Float32Array): Uint8Array {
  const code = new Uint8Array(values.length / 8);
  values.forEach((value, bit) => {
    if (value > 0) code[bit >> 3]! |= 0x80 >> (bit & 7);
  });
  return code;
}
