// The page: takes an image, asks the worker, shows what it finds.

import { showBox } from "./boxes.js";
import { asJpeg, takePicture } from "./camera.js";
import { makeCard, makeStart, nameOf } from "./cards.js";
import { byId, clearMessage, setStatus, showImage, showMessage } from "./dom.js";
import { Lightbox } from "./lightbox.js";
import type { Opened, Reply, Request, Searched, Shown } from "./messages.js";

const PAGE = 24; // hits

type Source = { readonly image: Blob; readonly name: string } | { readonly slot: number };

const waiting = new Map<number, { resolve: (result: never) => void; reject: (e: Error) => void }>();
const lightbox = new Lightbox((slot) => void searchFor({ slot }));
const file = byId<HTMLInputElement>("file");
let worker: Worker;
let gallery: Opened;
let source: Source | null = null;
let count = PAGE;
let latest = 0;

function ask<Result>(request: Request): Promise<Result> {
  const id = ++latest;
  const transfer = "image" in request && request.image instanceof ImageBitmap ? [request.image] : [];
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ ...request, id }, transfer);
  });
}

function receive(reply: Reply): void {
  if ("done" in reply) {
    byId<HTMLProgressElement>("progress").value = reply.done / reply.total;
    setStatus(`Loading ${megabytes(reply.done)} of ${megabytes(reply.total)} MB, once`);
    return;
  }
  const asked = waiting.get(reply.id)!;
  waiting.delete(reply.id);
  if ("error" in reply) asked.reject(new Error(reply.error));
  else asked.resolve(reply.result as never);
}

const megabytes = (bytes: number): string => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
const images = (number: number): string => `${number.toLocaleString()} image${number === 1 ? "" : "s"}`;

async function start(): Promise<void> {
  if (!isSecureContext) {
    showMessage(
      "This page requires https",
      "Browsers give a page that comes without encryption neither storage nor a camera. Open it by an " +
        "https address, or on this machine as http://localhost.",
    );
    return;
  }
  byId("progress").hidden = false;
  const isReady = navigator.serviceWorker
    ? navigator.serviceWorker
        .register("service-worker.js", { updateViaCache: "none" })
        .then(() => navigator.serviceWorker.ready)
    : Promise.reject(new Error("this browser has no service workers"));
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", ({ data }: MessageEvent<Reply>) => receive(data));
  worker.addEventListener("error", ({ message }) => showMessage("The search did not start", message));
  try {
    gallery = await ask<Opened>({ op: "open" });
  } catch (error) {
    setStatus("");
    showMessage("The search did not start", (error as Error).message);
    return;
  } finally {
    byId("progress").hidden = true;
  }
  document.title = `${gallery.name} - bitgaze`;
  byId("gallery").textContent = `${images(gallery.items)} in ${gallery.name}`;
  file.disabled = false;
  byId<HTMLButtonElement>("camera").disabled = !navigator.mediaDevices;
  setStatus("Choose an image or take one, or start from one of these.");
  void browse();
  isReady.then(
    () => (byId("offline").textContent = gallery.isStored ? "Works offline" : "No space to work offline"),
    (error: Error) => (byId("offline").textContent = `Online only: ${error.message}`),
  );
}

async function browse(): Promise<void> {
  const items = await ask<readonly Shown[]>({ op: "browse", count: PAGE });
  if (source !== null) return; // a search was faster
  byId("hits").replaceChildren(
    ...items.map((item) => makeStart(item, () => void searchFor({ slot: item.slot }))),
  );
}

async function searchImage(image: Blob, name: string): Promise<void> {
  if (file.disabled) return; // still loading
  await searchFor({ image, name });
}

async function searchFor(wanted: Source): Promise<void> {
  source = wanted;
  count = PAGE;
  await run();
  byId("title").focus();
}

async function run(): Promise<void> {
  const wanted = source!;
  clearMessage();
  setStatus("Searching", true);
  const query = byId("query");
  query.hidden = false;
  if ("image" in wanted) showImage(query, wanted.image);
  const begin = performance.now();
  let found: Searched;
  try {
    found = await ask<Searched>(
      "image" in wanted
        ? { op: "search", image: wanted.image, k: count }
        : { op: "like", slot: wanted.slot, k: count },
    );
  } catch (error) {
    if (source !== wanted) return;
    setStatus("");
    showMessage("This image cannot be searched for", (error as Error).message);
    return;
  }
  if (source !== wanted) return; // another one has been asked for since
  const { hits } = found;
  const name = "image" in wanted ? wanted.name : nameOf(found.query!.key);
  if (found.query) showImage(query, found.query.thumbnail);
  showBox(query, hits[0]?.queryBox ?? null);
  byId("title").textContent = `Images like ${name}`;
  byId("hits").replaceChildren(
    ...hits.map((hit, i) => makeCard(hit, i + 1, gallery.bits, () => lightbox.open(hits, i, gallery.bits))),
  );
  byId("more").hidden = hits.length < count || hits.length === gallery.items;
  const seconds = (performance.now() - begin) / 1000;
  setStatus(`${images(hits.length)}, nearest first, in ${seconds.toFixed(2)} s`);
  // For measurements: what a person does not want to read.
  Object.assign(byId("results").dataset, {
    encodeMs: found.encodeMs.toFixed(1),
    searchMs: found.searchMs.toFixed(3),
    threads: gallery.threads,
  });
}

file.addEventListener("change", () => {
  const chosen = file.files?.[0];
  file.value = ""; // so that the same one can be chosen again
  if (chosen) void searchImage(chosen, chosen.name);
});

byId("camera").addEventListener("click", async () => {
  try {
    const picture = await takePicture();
    if (picture) await searchImage(await asJpeg(picture), "the camera's picture");
  } catch (error) {
    showMessage("No camera", (error as Error).message);
  }
});

byId("more").addEventListener("click", () => {
  count += PAGE;
  void run();
});

addEventListener("paste", ({ clipboardData }) => {
  const pasted = [...(clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
  if (pasted) void searchImage(pasted, "the pasted image");
});

addEventListener("dragover", (event) => {
  if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", ({ relatedTarget }) => {
  if (relatedTarget === null) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const dropped = event.dataTransfer?.files[0];
  if (dropped) void searchImage(dropped, dropped.name);
});

void start();
