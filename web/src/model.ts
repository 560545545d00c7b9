// A model file: its contract, its fingerprint, and a session of onnxruntime that runs it.

import type { InferenceSession, Tensor } from "onnxruntime-common";

import type { LookRule } from "./looks.js";
import { pythonJson } from "./numbers.js";
import type { Filter } from "./resize.js";

/** What onnxruntime-web, onnxruntime-node and their variants export. */
export interface Runtime {
  readonly InferenceSession: {
    create(
      model: Uint8Array,
      options?: InferenceSession.SessionOptions,
    ): Promise<InferenceSession>;
  };
  readonly Tensor: new (type: "uint8", data: Uint8Array, dims: readonly number[]) => Tensor;
}

/** What a Hamming distance means; see `bitgaze.encoding.calibration`. */
export interface Calibration {
  readonly duplicate: readonly number[];
  readonly kind: readonly number[];
  readonly false_match: readonly number[];
}

/** What a model file declares about itself; docs/model-file.md describes the entries. */
export interface Contract {
  readonly schema: 1;
  readonly name: string;
  readonly licence: string;
  readonly bits: number;
  readonly preprocess: {
    readonly size: number;
    readonly filter: Filter;
    readonly exif: "upright";
    readonly alpha: "white";
    readonly resize: "stretch";
    readonly depth?: "used" | "stored";
  };
  readonly looks?: LookRule;
  readonly calibration: Calibration | null;
  readonly precision: string;
  readonly tolerance: number;
  readonly golden: readonly { readonly png: string; readonly code: string }[];
}

/** A model that is loaded. */
export interface Model {
  readonly contract: Contract;
  /** Identity of the model, 64 hex digits: only codes of the same one are comparable. */
  readonly fingerprint: string;
  readonly runtime: Runtime;
  readonly session: InferenceSession;
}

/** A file is not what it should be; the message says what was found and what was expected. */
export class FormatError extends Error {
  override name = "FormatError";
}

const SUPPORTED = {
  filter: ["bicubic", "bilinear"],
  exif: ["upright"],
  alpha: ["white"],
  resize: ["stretch"],
  depth: ["used", "stored"],
} as const;
const LOOKS = "classes, then attention";
const FLOATS = new Set(["probability", "extent", "smallest", "largest", "side", "apart", "overlap"]);

// Fields of onnx.ModelProto, and of the StringStringEntryProto inside it.
const GRAPH = 7;
const OPSET_IMPORT = 8;
const METADATA_PROPS = 14;
const FUNCTIONS = 25;

/**
 * Load a model.
 *
 * @param runtime such as `import * as ort from "onnxruntime-web/wasm"`.
 * @param content of the .onnx file.
 * @param options of the session, such as `{executionProviders: ["webgpu"]}`.
 * @throws FormatError if it is not a model of bitgaze, or one that this version does not support.
 */
export async function openModel(
  runtime: Runtime,
  content: Uint8Array,
  options?: InferenceSession.SessionOptions,
): Promise<Model> {
  const contract = contractOf(content);
  const [fingerprint, session] = await Promise.all([
    fingerprintOf(content, contract),
    runtime.InferenceSession.create(content, options),
  ]);
  const lacking = ["code", "hash", "attention"].filter((name) => !session.outputNames.includes(name));
  if (lacking.length > 0) {
    throw new FormatError(`the model's graph lacks the outputs ${lacking.join(", ")}`);
  }
  return { contract, fingerprint, runtime, session };
}

function contractOf(content: Uint8Array): Contract {
  for (const [number, value] of fields(content)) {
    if (number !== METADATA_PROPS) continue;
    const entry = new Map(fields(value));
    if (text(entry.get(1)) === "bitgaze") return checked(text(entry.get(2)));
  }
  throw new FormatError("an ONNX file without a bitgaze contract; export it with export/to_onnx.py");
}

function checked(json: string): Contract {
  let contract: Contract;
  try {
    contract = JSON.parse(json) as Contract;
  } catch {
    throw new FormatError("the model's contract is not JSON");
  }
  if (contract.schema !== 1) {
    throw new FormatError(`the contract has schema ${contract.schema}, this version reads 1`);
  }
  const { bits, preprocess, looks } = contract;
  if (!Number.isInteger(bits) || bits % 8 !== 0 || bits < 8 || bits > 1024) {
    throw new FormatError(`the contract has ${bits} bits, expected a multiple of 8 from 8 to 1024`);
  }
  const size = preprocess.size;
  if (!Number.isInteger(size) || size < 1 || size > 4096) {
    throw new FormatError(`the contract's size is ${size}, expected 1 to 4096`);
  }
  for (const [name, known] of Object.entries(SUPPORTED)) {
    const value = preprocess[name as keyof typeof SUPPORTED] ?? "stored";
    if (!(known as readonly string[]).includes(value)) {
      throw new FormatError(`the contract's ${name} is ${value}, this version supports ${known}`);
    }
  }
  if (looks && looks.kind !== LOOKS) {
    throw new FormatError(`the contract's looks are "${looks.kind}", this version knows "${LOOKS}"`);
  }
  return contract;
}

// SHA-256 over graph, opset and functions as they are stored, the preprocessing and the looks.
async function fingerprintOf(content: Uint8Array, contract: Contract): Promise<string> {
  const pieces: Uint8Array[] = [];
  for (const [number, value] of fields(content)) {
    if (number !== GRAPH && number !== OPSET_IMPORT && number !== FUNCTIONS) continue;
    const head = new Uint8Array(9);
    head[0] = number;
    new DataView(head.buffer).setUint32(1, value.length, true);
    pieces.push(head, value);
  }
  const entries = { ...contract.preprocess };
  if (entries.depth === "stored") delete entries.depth;
  pieces.push(utf8(pythonJson(entries, FLOATS)));
  if (contract.looks) pieces.push(utf8(pythonJson({ ...contract.looks }, FLOATS)));
  const digest = await crypto.subtle.digest("SHA-256", await new Blob(pieces as BlobPart[]).arrayBuffer());
  return hex(new Uint8Array(digest));
}

/** Bytes as hex digits. */
export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function utf8(value: string): Uint8Array {
  return new TextEncoder().encode(value);
}

function text(value: Uint8Array | undefined): string {
  return new TextDecoder().decode(value ?? new Uint8Array());
}

// Length-delimited fields of a protobuf message, in order: number and content.
function* fields(message: Uint8Array): Generator<[number, Uint8Array]> {
  let position = 0;
  const varint = (): number => {
    let value = 0;
    for (let scale = 1; scale <= 2 ** 63; scale *= 128) {
      const byte = message[position++];
      if (byte === undefined) break;
      value += (byte & 0x7f) * scale;
      if (byte < 0x80) return value;
    }
    throw new FormatError("not an ONNX file (it ends inside a field)");
  };
  while (position < message.length) {
    const tag = varint();
    const number = Math.floor(tag / 8);
    const wireType = tag % 8;
    if (wireType === 0) {
      varint();
      continue;
    }
    const length = wireType === 2 ? varint() : wireType === 5 ? 4 : wireType === 1 ? 8 : NaN;
    if (!(length <= message.length - position)) throw new FormatError("not an ONNX file");
    if (wireType === 2) yield [number, message.subarray(position, position + length)];
    position += length;
  }
}
