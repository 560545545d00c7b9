// Loads the model and the gallery, encodes and searches, apart from the page so that it stays smooth.

import * as ort from "./ort/ort.wasm.min.mjs";

import { encode, openFlat, openModel, queryOf, search } from "../src/index.js";
import type { FlatGallery, Model, Query } from "../src/index.js";
import type { Found, Reply, Request, Result, Searched, Shown, Site } from "./messages.js";
import { dataCache } from "./caches.js";

// What is there without a network: the page itself is in the service worker's care.
const WASM = "ort/ort-wasm-simd-threaded.wasm";
const MODEL = "model.onnx";
const GALLERY = "gallery.flat";
const THUMBNAILS = "thumbnails.pack";
const MOST_THREADS = 4;

interface State {
  readonly site: Site;
  readonly model: Model;
  readonly gallery: FlatGallery;
  readonly thumbnails: Blob | null;
}

let state: Promise<State> | undefined;
let isStored = true;

const reply = (message: Reply): void => postMessage(message);

addEventListener("message", async ({ data }: MessageEvent<Request & { id: number }>) => {
  try {
    reply({ id: data.id, result: await answer(data) });
  } catch (error) {
    reply({ id: data.id, error: error instanceof Error ? error.message : String(error) });
  }
});

async function answer(request: Request): Promise<Result> {
  state ??= open();
  const { site, model, gallery } = await state;
  if (request.op === "open") {
    const { items, bits } = gallery;
    return { name: site.name, items, bits, threads: ort.env.wasm.numThreads ?? 1, isStored };
  }
  if (request.op === "browse") return spread(gallery, request.count);
  const start = performance.now();
  const options = { looks: gallery.looks, adaptation: gallery.adaptation };
  const isImage = request.op === "search";
  const query: Query = isImage
    ? await encode(model, request.image, options)
    : await queryOf(gallery, request.slot);
  const encoded = performance.now();
  const hits = await search(gallery, query, { k: request.k });
  const searched = performance.now();
  const shown = await Promise.all(
    hits.map(async (hit): Promise<Found> => ({ ...hit, thumbnail: await thumbnail(hit.slot) })),
  );
  let source: Searched["query"] = null;
  if (!isImage) {
    const { key } = await gallery.item(request.slot);
    source = { key, thumbnail: await thumbnail(request.slot) };
  }
  return { hits: shown, query: source, encodeMs: encoded - start, searchMs: searched - encoded };
}

// Items from all over the gallery, to start from.
function spread(gallery: FlatGallery, count: number): Promise<Shown[]> {
  const most = Math.min(count, gallery.items);
  return Promise.all(
    Array.from({ length: most }, async (_, i) => {
      const slot = Math.floor((i * gallery.items) / most);
      return { ...(await gallery.item(slot)), thumbnail: await thumbnail(slot) };
    }),
  );
}

async function open(): Promise<State> {
  const site = (await (await fetch("site.json")).json()) as Site;
  const names = [WASM, MODEL, GALLERY, THUMBNAILS].filter((name) => name in site.files);
  const total = names.reduce((sum, name) => sum + site.files[name]![0], 0);
  const done = new Map<string, number>();
  const cache = await dataCache();
  const contents = await Promise.all(
    names.map((name) =>
      load(cache, name, site, (bytes) => {
        done.set(name, bytes);
        reply({ done: [...done.values()].reduce((sum, one) => sum + one, 0), total });
      }),
    ),
  );
  const content = (name: string): Blob | undefined => contents[names.indexOf(name)];
  await forget(cache, names, site);

  ort.env.wasm.wasmBinary = await content(WASM)!.arrayBuffer();
  ort.env.wasm.wasmPaths = { mjs: new URL("./ort/ort-wasm-simd-threaded.mjs", location.href).href };
  const cores = navigator.hardwareConcurrency || 1;
  ort.env.wasm.numThreads = crossOriginIsolated ? Math.min(cores, MOST_THREADS) : 1;
  const [model, gallery] = await Promise.all([
    content(MODEL)!.arrayBuffer().then((bytes) => openModel(ort, new Uint8Array(bytes))),
    openFlat(content(GALLERY)!),
  ]);
  if (gallery.model !== model.fingerprint) {
    throw new Error(
      `the gallery is of model ${gallery.model?.slice(0, 12)}, this page has ` +
        `${model.fingerprint.slice(0, 12)}: export it again with bitgaze export-web`,
    );
  }
  // The first image takes longer than others, because the browser compiles what it runs.
  const side = 2 * model.contract.preprocess.size;
  const data = Uint8Array.from({ length: 3 * side * side }, (_, i) => (i * i) & 255);
  await encode(model, { width: side, height: side, data }, { looks: gallery.looks });
  return { site, model, gallery, thumbnails: content(THUMBNAILS) ?? null };
}

const address = (name: string, site: Site): string => `${name}?v=${site.files[name]![1]}`;

// A file from this device, else from the server, which is then kept here.
async function load(
  cache: Cache,
  name: string,
  site: Site,
  onProgress: (bytes: number) => void,
): Promise<Blob> {
  const url = address(name, site);
  const kept = await cache.match(url);
  if (kept !== undefined) {
    const blob = await kept.blob();
    onProgress(blob.size);
    return blob;
  }
  const response = await fetch(url);
  if (!response.ok || response.body === null) {
    throw new Error(`${name}: the server answers ${response.status} ${response.statusText}`);
  }
  const parts: BlobPart[] = [];
  let bytes = 0;
  const reader = response.body.getReader();
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    parts.push(piece.value as BlobPart);
    bytes += piece.value.length;
    onProgress(bytes);
  }
  const blob = new Blob(parts);
  if (blob.size !== site.files[name]![0]) {
    throw new Error(`${name} has ${blob.size} bytes, expected ${site.files[name]![0]}: load again`);
  }
  try {
    await cache.put(url, new Response(blob));
  } catch {
    isStored = false; // no space; the page says so
  }
  return blob;
}

// Deletes what an earlier version of the site has left.
async function forget(cache: Cache, names: readonly string[], site: Site): Promise<void> {
  const current = new Set(names.map((name) => new URL(address(name, site), location.href).href));
  for (const request of await cache.keys()) {
    if (new URL(request.url).searchParams.has("v") && !current.has(request.url)) {
      await cache.delete(request);
    }
  }
}

// A pack: items + 1 offsets (64 bits, little-endian), then JPEG files; an empty one is no thumbnail.
async function thumbnail(slot: number): Promise<Blob | null> {
  const pack = (await state)?.thumbnails ?? null;
  if (pack === null) return null;
  const ends = new DataView(await pack.slice(8 * slot, 8 * slot + 16).arrayBuffer());
  const [start, end] = [Number(ends.getBigUint64(0, true)), Number(ends.getBigUint64(8, true))];
  return end > start ? pack.slice(start, end, "image/jpeg") : null;
}
