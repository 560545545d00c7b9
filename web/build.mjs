// Builds the npm package (dist/) and the web files of `bitgaze export-web`.
//
//   node build.mjs            both
//   node build.mjs package    only the package
//
// Requires clang, lld, wasi-libc and libc++ for WebAssembly (Debian: clang lld wasi-libc
// libc++-dev-wasm32 libclang-rt-dev-wasm32), and `npm ci --ignore-scripts`, once.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const dist = join(here, "dist");
const site = join(root, "runtime", "bitgaze", "web", "site");
const ort = join(here, "node_modules", "onnxruntime-web", "dist");
const WASM = "ort-wasm-simd-threaded.wasm";

function kernels() {
  const hamming = ["scan", "kernel_portable", "kernel_wasm"].map((name) => `csrc/hamming/${name}.cpp`);
  execFileSync(
    process.env.CLANG ?? "clang++",
    [
      ...["--target=wasm32-wasi", "-mexec-model=reactor", "-msimd128", "-std=c++20", "-O3"],
      ...["-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"],
      ...["-Wl,--strip-all", "-Wl,--gc-sections", "-Icsrc", "csrc/wasm.cpp", ...hamming],
      ...["-o", join(dist, "search.wasm")],
    ],
    { cwd: root, stdio: "inherit" },
  );
}

const common = {
  bundle: true,
  format: "esm",
  target: "es2022",
  loader: { ".wasm": "binary" },
  legalComments: "none",
  absWorkingDir: here,
  logLevel: "warning",
};

const tsc = (...options) =>
  execFileSync(join(here, "node_modules", ".bin", "tsc"), options, { cwd: here, stdio: "inherit" });

async function npmPackage() {
  await build({ ...common, entryPoints: ["src/index.ts"], outfile: "dist/index.js" });
  tsc("-p", "tsconfig.package.json");
}

async function webFiles() {
  tsc();
  rmSync(site, { recursive: true, force: true });
  mkdirSync(join(site, "ort"), { recursive: true });
  const page = { ...common, minify: true, outdir: site };
  await build({ ...page, entryPoints: ["page/app.ts"] });
  await build({ ...page, entryPoints: ["page/worker.ts"], external: ["./ort/*"] });
  const served = join(root, "runtime", "bitgaze", "web");
  const copies = [
    ...["index.html", "page.css", "icon-192.png", "icon-512.png"].map((name) => join(here, "page", name)),
    ...["serve.css", "icon.svg"].map((name) => join(served, name)),
    ...["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs"].map((name) => join(ort, name)),
  ];
  const shell = ["app.js", "worker.js"];
  for (const from of copies) {
    const name = (from.startsWith(ort) ? "ort/" : "") + basename(from);
    copyFileSync(from, join(site, name));
    shell.push(name);
  }
  // Stored by the worker, which shows how far it is.
  copyFileSync(join(ort, WASM), join(site, "ort", WASM));
  copyFileSync(join(here, "page", "onnxruntime-LICENCE.txt"), join(site, "ort", "LICENCE.txt"));
  copyFileSync(join(root, "LICENSE"), join(site, "LICENCE.txt"));

  const digest = createHash("sha256");
  for (const name of shell) digest.update(readFileSync(join(site, name)));
  const define = {
    BUILD: JSON.stringify(digest.digest("hex").slice(0, 16)),
    SHELL: JSON.stringify(shell),
  };
  const worker = { ...page, format: "iife", define, entryPoints: ["page/service-worker.ts"] };
  await build(worker);
}

mkdirSync(dist, { recursive: true });
kernels();
await npmPackage();
if (process.argv[2] !== "package") await webFiles();
