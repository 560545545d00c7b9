// Runs the npm package in Node: reads cases from a file, prints what came out as JSON.
//
//   node web_driver.mjs PACKAGE MODEL CASES

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [packagePath, modelPath, casesPath] = process.argv.slice(2);
const bitgaze = await import(pathToFileURL(packagePath).href);
const cases = JSON.parse(readFileSync(casesPath, "utf8"));
const base64 = (bytes) => Buffer.from(bytes).toString("base64");
const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));

// Instead of the network: keeps its input, and has the outputs that a case gives.
let outputs;
let inputs = [];
const tensor = ([kind, dims, data]) => {
  const content = bytes(data);
  return { dims, data: kind === "f" ? new Float32Array(content.buffer) : content };
};
const runtime = {
  InferenceSession: {
    create: async () => ({
      outputNames: ["code", "hash", "attention"],
      run: async ({ image }, names) => {
        inputs.push(image.data);
        return Object.fromEntries(names.map((name) => [name, tensor(outputs[name])]));
      },
    }),
  },
  Tensor: class {
    constructor(type, data, dims) {
      Object.assign(this, { type, data, dims });
    }
  },
};

const run = {
  async encode({ width, height, pixels, looks, fake, adaptation }) {
    outputs = fake;
    inputs = [];
    const model = await bitgaze.openModel(runtime, new Uint8Array(readFileSync(modelPath)));
    const options = { looks };
    if (adaptation) options.adaptation = (await bitgaze.openFlat(readFileSync(adaptation))).adaptation;
    const image = { width, height, data: bytes(pixels) };
    const encoded = await bitgaze.encode(model, image, options);
    return {
      inputs: inputs.map(base64),
      codes: base64(encoded.codes),
      boxes: encoded.boxes,
      fingerprint: encoded.fingerprint,
    };
  },
  async search({ file, asBlob, queries, k, radius, filter }) {
    const content = readFileSync(file);
    const gallery = await bitgaze.openFlat(asBlob ? new Blob([content]) : new Uint8Array(content));
    const results = [];
    for (const query of queries) {
      const codes = bytes(query);
      const views = codes.length / (gallery.bits / 8);
      const options = { k, ...(radius !== null && { radius }), ...(filter && { filter: bytes(filter) }) };
      const boxes = Array.from({ length: views }, () => null);
      const { bits, model } = gallery;
      const adaptation = gallery.adaptation?.fingerprint ?? null;
      const one = { fingerprint: model ?? "", adaptation, bits, codes, boxes };
      results.push(await bitgaze.search(gallery, one, options));
    }
    const own = gallery.items ? base64(gallery.codes(gallery.items - 1)) : null;
    return { items: gallery.items, looks: gallery.looks, model: gallery.model, results, own };
  },
  async open({ file }) {
    const gallery = await bitgaze.openFlat(new Uint8Array(bytes(file)));
    for (let slot = 0; slot < Math.min(gallery.items, 3); slot++) {
      await gallery.item(slot);
      await gallery.boxes(slot);
      gallery.codes(slot);
    }
    return "opened";
  },
  async model({ content }) {
    return (await bitgaze.openModel(runtime, bytes(content))).fingerprint;
  },
};

const answers = [];
for (const { op, ...one } of cases) {
  try {
    answers.push(await run[op](one));
  } catch (error) {
    answers.push({ error: error.name, message: error.message });
  }
}
console.log(JSON.stringify(answers));
