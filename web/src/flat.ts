// A flat file: a snapshot of a gallery, written by `bitgaze export-flat`; docs/flat-file.md.

import { Codes, liesByWord } from "./kernels.js";
import type { Box } from "./looks.js";
import { FormatError, hex, type Calibration } from "./model.js";

/** What turns a model's hash values into those of an adapted gallery. */
export interface Adaptation {
  /** SHA-256, 64 hex digits. */
  readonly fingerprint: string;
  /** Subtracted first. */
  readonly offset: Float32Array;
  /** (bits, bits), row by row; hash values are rows and multiply it from the left. */
  readonly rotation: Float32Array;
}

/** An item of a gallery. */
export interface Item {
  readonly slot: number;
  readonly key: string;
  readonly metadata: Readonly<Record<string, unknown>>;
}

interface Section {
  readonly offset: number;
  readonly length: number;
}

const MAGIC = [0x89, 0x42, 0x47, 0x46, 0x0d, 0x0a, 0x1a, 0x0a];
const HEADER_BYTES = 128;
const ENTRY_BYTES = 32;
const MOST_SECTIONS = 64;
const MOST_INFO_BYTES = 1 << 24;
const PIECE_BYTES = 1 << 24;
// A file of up to this size is kept in memory: reading a part of a Blob takes a browser a millisecond.
const IN_MEMORY_BYTES = 1 << 26;
const WHOLE = 65535;

// Content that is read piece by piece.
type Content = Blob | Uint8Array;

/** A gallery that is open for searches. */
export class FlatGallery {
  /** @internal */
  constructor(
    private readonly file: Content,
    private readonly sections: ReadonlyMap<string, Section>,
    /** @internal */
    readonly store: Codes,
    /** Number of items. */
    readonly items: number,
    /** Length of a code. */
    readonly bits: number,
    /** Number of looks at each image, with which queries must be encoded too. */
    readonly looks: number,
    /** Fingerprint of the model; null for codes of your own. */
    readonly model: string | null,
    readonly adaptation: Adaptation | null,
    /** What distances mean; null if it is not known. */
    readonly calibration: Calibration | null,
  ) {}

  /**
   * Read an item.
   *
   * @throws RangeError if there is no such slot; FormatError if its record is damaged.
   */
  async item(slot: number): Promise<Item> {
    this.check(slot);
    const ends = await this.read("offsets", 8 * slot, 16);
    const [start, end] = [number64(ends, 0), number64(ends, 8)];
    const length = this.sections.get("records")!.length;
    if (!(start + 4 <= end && end <= length)) throw damaged(`the record of item ${slot}`);
    const record = await this.read("records", start, end - start);
    const keyBytes = record.getUint32(0, true);
    if (4 + keyBytes > record.byteLength) throw damaged(`the key of item ${slot}`);
    const text = (from: number, to?: number): string =>
      new TextDecoder("utf-8", { fatal: true }).decode(bytes(record).subarray(from, to));
    try {
      const metadata = JSON.parse(text(4 + keyBytes)) as Record<string, unknown>;
      return { slot, key: text(4, 4 + keyBytes), metadata };
    } catch {
      throw damaged(`the record of item ${slot}`);
    }
  }

  /** Codes of an item: of the image, then of its looks, as `Encoded.codes`. */
  codes(slot: number): Uint8Array {
    this.check(slot);
    const width = this.bits / 8;
    const codes = new Uint8Array((1 + this.looks) * width);
    for (let view = 0; view <= this.looks; view++) codes.set(this.store.code(slot, view), view * width);
    return codes;
  }

  /** Where the views of an item are: null for the whole image. */
  async boxes(slot: number): Promise<(Box | null)[]> {
    this.check(slot);
    if (this.looks === 0) return [null];
    const steps = await this.read("boxes", 8 * this.looks * slot, 8 * this.looks);
    const boxes: (Box | null)[] = [null];
    for (let look = 0; look < this.looks; look++) {
      const edges = [0, 1, 2, 3].map((i) => steps.getUint16(8 * look + 2 * i, true));
      const isWhole = edges.join() === `0,0,${WHOLE},${WHOLE}`;
      boxes.push(isWhole ? null : (edges.map((edge) => edge / WHOLE) as unknown as Box));
    }
    return boxes;
  }

  private check(slot: number): void {
    if (!(Number.isInteger(slot) && slot >= 0 && slot < this.items)) {
      throw new RangeError(`slot is ${slot}, expected 0 to ${this.items - 1}`);
    }
  }

  private async read(name: string, from: number, size: number): Promise<DataView> {
    return view(this.file, this.sections.get(name)!.offset + from, size);
  }
}

/**
 * Open a flat file: reads the header and the codes.
 *
 * @param content of the file, not to be changed. Of a large Blob, only codes are read into memory, and
 *   keys and metadata where they are needed.
 * @throws FormatError if it is no flat file, damaged, or of a version that this one does not read.
 */
export async function openFlat(content: Blob | ArrayBuffer | Uint8Array): Promise<FlatGallery> {
  const file = await contentOf(content);
  const fileBytes = sizeOf(file);
  if (fileBytes < HEADER_BYTES) throw new FormatError(`a file of ${fileBytes} bytes is no flat file`);
  const start = await view(file, 0, HEADER_BYTES);
  if (MAGIC.some((byte, i) => start.getUint8(i) !== byte)) {
    throw new FormatError("not a flat file; write one with `bitgaze export-flat`");
  }
  const version = start.getUint32(8, true);
  if (version !== 1) {
    throw new FormatError(`a flat file of version ${version}; this version of bitgaze reads 1`);
  }
  const count = start.getUint32(20, true);
  const headerBytes = start.getUint32(16, true);
  if (count > MOST_SECTIONS || headerBytes !== HEADER_BYTES + ENTRY_BYTES * count) {
    throw damaged("the header's length");
  }
  if (number64(start, 24) !== fileBytes) {
    throw new FormatError(
      `the file has ${fileBytes} bytes, its header says ${number64(start, 24)}: it is not whole`,
    );
  }
  const header = copied(await view(file, 0, headerBytes));
  const crc = header.getUint32(12, true);
  header.setUint32(12, 0, true);
  if (crc32(bytes(header)) !== crc) throw damaged("the header's checksum");

  const items = number64(header, 32);
  const bits = header.getUint32(40, true);
  const views = header.getUint32(44, true);
  const inRange = bits % 8 === 0 && bits >= 8 && bits <= 1024 && views >= 1 && views <= 8;
  if (!inRange || items > 0xffffffff) throw damaged(`${items} items of ${views} codes of ${bits} bits`);
  const sections = sectionsOf(header, count, fileBytes);
  const model = digest(header, 48);
  const adaptation = digest(header, 80);
  checkLengths(sections, items, bits, views, adaptation !== null);

  const codesAt = sections.get("codes")!;
  const store = await Codes.create(items, bits / 8, views, codesAt.length, async (memory) => {
    for (let from = 0; from < codesAt.length; from += PIECE_BYTES) {
      const size = Math.min(PIECE_BYTES, codesAt.length - from);
      const piece = await view(file, codesAt.offset + from, size);
      memory(from, size).set(bytes(piece));
    }
  });
  const infoAt = sections.get("info")!;
  if (infoAt.length > MOST_INFO_BYTES) throw damaged("section info");
  let info: { calibration?: Calibration | null };
  try {
    const text = new TextDecoder().decode(await view(file, infoAt.offset, infoAt.length));
    info = JSON.parse(text) as { calibration?: Calibration | null };
  } catch {
    throw damaged("section info");
  }
  return new FlatGallery(
    file,
    sections,
    store,
    items,
    bits,
    views - 1,
    model,
    adaptation === null ? null : await adaptationOf(file, sections.get("adapt")!, bits, adaptation),
    info.calibration ?? null,
  );
}

function sectionsOf(header: DataView, count: number, fileBytes: number): Map<string, Section> {
  const sections = new Map<string, Section>();
  let end = header.byteLength;
  for (let i = 0; i < count; i++) {
    const at = HEADER_BYTES + ENTRY_BYTES * i;
    const padded = new TextDecoder("latin1").decode(bytes(header).subarray(at, at + 8));
    const name = padded.replace(/\0+$/, "");
    const offset = number64(header, at + 8);
    const length = number64(header, at + 16);
    if (offset % 64 !== 0 || offset < end || !(offset + length <= fileBytes)) {
      throw damaged("the table of sections");
    }
    if (sections.has(name)) throw damaged(`two sections have the name ${name}`);
    sections.set(name, { offset, length });
    end = offset + length;
  }
  if (end !== fileBytes) throw damaged("the file does not end with its last section");
  return sections;
}

function checkLengths(
  sections: ReadonlyMap<string, Section>,
  items: number,
  bits: number,
  views: number,
  isAdapted: boolean,
): void {
  const codeBytes = bits / 8;
  const expected: Record<string, number | null> = {
    info: null,
    records: null,
    offsets: 8 * (items + 1),
    lookup: 8 * items,
    codes:
      views > 1
        ? Math.ceil(items / 32) * 64 * views * Math.ceil(codeBytes / 2)
        : liesByWord(codeBytes)
          ? Math.ceil(items / 4096) * 4096 * codeBytes
          : items * codeBytes,
  };
  if (views > 1) expected.boxes = 8 * items * (views - 1);
  if (isAdapted) expected.adapt = 4 * bits * (bits + 1);
  for (const [name, length] of Object.entries(expected)) {
    const found = sections.get(name);
    if (found === undefined) throw damaged(`section ${name} is missing`);
    if (length !== null && found.length !== length) {
      throw damaged(`section ${name} has ${found.length} bytes, expected ${length}`);
    }
  }
}

async function adaptationOf(
  file: Content,
  at: Section,
  bits: number,
  fingerprint: string,
): Promise<Adaptation> {
  const content = await view(file, at.offset, at.length);
  const found = await crypto.subtle.digest("SHA-256", content as BufferSource);
  if (hex(new Uint8Array(found)) !== fingerprint) throw damaged("the adaptation's checksum");
  const values = Float32Array.from({ length: bits * (bits + 1) }, (_, i) => content.getFloat32(4 * i, true));
  return { fingerprint, offset: values.subarray(0, bits), rotation: values.subarray(bits) };
}

function damaged(what: string): FormatError {
  return new FormatError(`the flat file is damaged: ${what}`);
}

function digest(header: DataView, at: number): string | null {
  const found = hex(bytes(header).subarray(at, at + 32));
  return /^0*$/.test(found) ? null : found;
}

async function contentOf(content: Blob | ArrayBuffer | Uint8Array): Promise<Content> {
  if (content instanceof Uint8Array) return content;
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  return content.size <= IN_MEMORY_BYTES ? new Uint8Array(await content.arrayBuffer()) : content;
}

const sizeOf = (file: Content): number => (file instanceof Blob ? file.size : file.length);

async function view(file: Content, from: number, size: number): Promise<DataView> {
  if (file instanceof Blob) return new DataView(await file.slice(from, from + size).arrayBuffer());
  return new DataView(file.buffer, file.byteOffset + from, size);
}

function copied(view: DataView): DataView {
  return new DataView(bytes(view).slice().buffer);
}

function bytes(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// Beyond 2^53 no file has such lengths, and comparisons fail.
function number64(view: DataView, at: number): number {
  return view.getUint32(at + 4, true) * 2 ** 32 + view.getUint32(at, true);
}

function crc32(content: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of content) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}
