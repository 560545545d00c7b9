// Serves the page without a network, and with the headers that allow threads.

import { dataCache, isOldShell, shellName } from "./caches.js";

// Digest of the files below, so that the browser notices a new version.
declare const BUILD: string;
declare const SHELL: readonly string[];

interface Scope {
  skipWaiting(): Promise<void>;
  readonly clients: { claim(): Promise<void> };
}
interface Extendable extends Event {
  waitUntil(work: Promise<unknown>): void;
}
interface Fetching extends Extendable {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}

const scope = self as unknown as Scope;
const folder = new URL("./", location.href).href;

addEventListener("install", (event) => (event as Extendable).waitUntil(install()));
addEventListener("activate", (event) => (event as Extendable).waitUntil(activate()));
addEventListener("fetch", (event) => {
  const { request } = event as Fetching;
  if (request.method !== "GET" || !request.url.startsWith(folder)) return;
  (event as Fetching).respondWith(respond(request).then(isolated));
});

async function install(): Promise<void> {
  const cache = await caches.open(shellName(BUILD));
  await cache.addAll(SHELL.map((name) => new Request(name, { cache: "reload" })));
  await (await dataCache()).add(new Request("site.json", { cache: "reload" }));
  await scope.skipWaiting();
}

async function activate(): Promise<void> {
  for (const name of await caches.keys()) {
    if (isOldShell(name, BUILD)) await caches.delete(name);
  }
  await scope.clients.claim();
}

async function respond(request: Request): Promise<Response> {
  const name = request.url.slice(folder.length).replace(/[?#].*$/, "");
  if (name === "site.json") return newest(request);
  const shell = await caches.open(shellName(BUILD));
  const kept = await shell.match(request.mode === "navigate" || name === "" ? "index.html" : name);
  return kept ?? fetch(request);
}

// From the server if it answers, so that a new gallery is noticed.
async function newest(request: Request): Promise<Response> {
  const cache = await dataCache();
  try {
    const response = await fetch(request, { cache: "no-cache" });
    if (response.ok) {
      await cache.put("site.json", response.clone());
      return response;
    }
  } catch {
    // No network: what is here is used.
  }
  return (await cache.match("site.json")) ?? Response.error();
}

// Also of the worker, which the policy in the page does not reach.
const POLICY = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:; connect-src 'self' blob:; " +
  "script-src 'self' 'wasm-unsafe-eval'; base-uri 'none'; form-action 'none'";

// Threads share memory, which browsers allow only in a page that nothing else can look into.
function isolated(response: Response): Response {
  if (response.type === "error" || response.type === "opaque") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  headers.set("Content-Security-Policy", POLICY);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
