// The search in WebAssembly: csrc/wasm.cpp, which scans with the kernels of csrc/hamming.

import binary from "../dist/search.wasm";

interface Exports {
  readonly memory: WebAssembly.Memory;
  _initialize(): void;
  allocate(size: number): number;
  release(address: number): void;
  search(
    codes: number,
    items: number,
    codeBytes: number,
    views: number,
    query: number,
    queryViews: number,
    filter: number,
    k: number,
    radius: number,
    distances: number,
    slots: number,
  ): number;
}

/** Whether the section has codes of this length by word, in blocks; others are rows. */
export const liesByWord = (codeBytes: number): boolean => codeBytes > 8 && codeBytes % 8 === 0;

let compiled: Promise<WebAssembly.Module> | undefined;

/** Codes in memory of their own, in the layout of a flat file's section `codes`. */
export class Codes {
  private constructor(
    private readonly exports: Exports,
    private readonly address: number,
    readonly items: number,
    readonly codeBytes: number,
    readonly views: number,
  ) {}

  /**
   * Allocate memory and fill it.
   *
   * @param fill is called once with the memory, all of it to be written.
   * @throws RangeError if there is too little memory.
   */
  static async create(
    items: number,
    codeBytes: number,
    views: number,
    length: number,
    fill: (memory: (from: number, size: number) => Uint8Array) => Promise<void>,
  ): Promise<Codes> {
    compiled ??= WebAssembly.compile(binary as BufferSource);
    const instance = await WebAssembly.instantiate(await compiled, {});
    const exports = instance.exports as unknown as Exports;
    exports._initialize();
    const address = exports.allocate(length) >>> 0;
    if (address === 0) throw new RangeError(`there is no memory for codes of ${length} bytes`);
    await fill((from, size) => new Uint8Array(exports.memory.buffer, address + from, size));
    return new Codes(exports, address, items, codeBytes, views);
  }

  private bytes(from: number, size: number): Uint8Array {
    return new Uint8Array(this.exports.memory.buffer, this.address + from, size);
  }

  /** The code of a view of an item. */
  code(slot: number, view: number): Uint8Array {
    const { codeBytes, views } = this;
    const code = new Uint8Array(codeBytes);
    if (views > 1) {
      const words = Math.ceil(codeBytes / 2);
      for (let i = 0; i < codeBytes; i++) {
        const word = (Math.floor(slot / 32) * views + view) * words + (i >> 1);
        code[i] = this.bytes(word * 64 + (slot % 32) * 2 + (i & 1), 1)[0]!;
      }
    } else if (liesByWord(codeBytes)) {
      const block = Math.floor(slot / 4096) * 4096 * codeBytes;
      for (let w = 0; w < codeBytes / 8; w++) {
        code.set(this.bytes(block + w * 32768 + (slot % 4096) * 8, 8), 8 * w);
      }
    } else {
      code.set(this.bytes(slot * codeBytes, codeBytes));
    }
    return code;
  }

  /**
   * Up to k items nearest to one query, by distance and then slot.
   *
   * @param query codes of its views, codeBytes each.
   * @param radius in the units of the distances: bits, or view units where there are views.
   * @param filter a bit for each item that may be found, or null for all.
   */
  nearest(
    query: Uint8Array,
    k: number,
    radius: number,
    filter: Uint8Array | null,
  ): { distances: Uint32Array; slots: Uint32Array } {
    const most = Math.min(k, this.items);
    const queryViews = query.length / this.codeBytes;
    const taken: number[] = [];
    const room = (size: number): number => {
      const address = this.exports.allocate(size) >>> 0;
      if (address === 0) throw new RangeError(`there is no memory for ${k} hits`);
      taken.push(address);
      return address;
    };
    try {
      const queryAt = room(query.length);
      const filterAt = filter ? room(filter.length) : 0;
      const distancesAt = room(4 * most);
      const slotsAt = room(4 * most);
      const memory = (): Uint8Array => new Uint8Array(this.exports.memory.buffer);
      memory().set(query, queryAt);
      if (filter) memory().set(filter, filterAt);
      const { address, items, codeBytes, views } = this;
      const found = this.exports.search(
        ...([address, items, codeBytes, views, queryAt, queryViews] as const),
        ...([filterAt, most, radius, distancesAt, slotsAt] as const),
      );
      const { buffer } = this.exports.memory;
      return {
        distances: new Uint32Array(buffer, distancesAt, found).slice(),
        slots: new Uint32Array(buffer, slotsAt, found).slice(),
      };
    } finally {
      for (const address of taken) this.exports.release(address);
    }
  }
}
