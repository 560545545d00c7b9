// Builds the npm package (dist/) and the web files of `bitgaze export-web`.
//
//   node build.mjs            both
//   node build.mjs package    only the package
//
// Requires clang, lld, wasi-libc and libc++ for WebAssembly (Debian: clang lld wasi-libc
// libc++-14-dev-wasm32 libclang-rt-14-dev-wasm32), and `npm ci --ignore-scripts`, once.

import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const dist = join(here, "dist");
const site = join(root, "runtime", "bitgaze", "site");
const ort = join(here, "node_modules", "onnxruntime-web", "dist");

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

async function npmPackage() {
  await build({ ...common, entryPoints: ["src/index.ts"], outfile: "dist/index.js" });
  execFileSync(
    join(here, "node_modules", ".bin", "tsc"),
    ["--noEmit", "false", "--emitDeclarationOnly", "--declaration", "--stripInternal"].concat([
      ...["--rootDir", "src", "--outDir", dist],
    ]),
    { cwd: here, stdio: "inherit" },
  );
}

async function webFiles() {
  rmSync(site, { recursive: true, force: true });
  mkdirSync(join(site, "ort"), { recursive: true });
  const page = { ...common, minify: true, outdir: site };
  await build({ ...page, entryPoints: ["page/app.ts"] });
  await build({ ...page, entryPoints: ["page/worker.ts"], external: ["./ort/*"] });
  await build({ ...page, format: "iife", entryPoints: ["page/service-worker.ts"] });
  for (const name of ["index.html", "style.css", "icon.svg", "icon-192.png", "icon-512.png"]) {
    copyFileSync(join(here, "page", name), join(site, name));
  }
  for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"]) {
    copyFileSync(join(ort, name), join(site, "ort", name));
  }
  const { version } = JSON.parse(readFileSync(join(ort, "..", "package.json"), "utf8"));
  writeFileSync(
    join(site, "ort", "LICENCE.txt"),
    `onnxruntime-web ${version}, MIT licence, Copyright (c) Microsoft Corporation\n`,
  );
}

mkdirSync(dist, { recursive: true });
kernels();
await npmPackage();
if (process.argv[2] !== "package") await webFiles();
