"""Measure the web page in Chromium: bits that differ from Python's, first search, search, offline.

    make web
    .venv-dev/bin/python benchmarks/web.py PHOTOS [--count 500] [--looks 3]

PHOTOS is a folder of images. Each is encoded by Python and by the page's code, as it is, and again
from its pixels as a PNG file, which leaves out what decoders differ in; 16 are also enlarged first,
to 1 to 16 megapixels. A search goes through a million random codes. Then a page is exported from a
gallery of 50 photographs and opened in a new browser, and again when its server has stopped.
"""

import argparse
import functools
import http.server
import io
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from bitgaze import Encoder, Gallery
from bitgaze.gallery.flat.writer import BATCH_ITEMS, Batch, Origin, write_flat
from bitgaze.gallery.website import SITE, export_web

ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = "/usr/bin/chromium"
LOADED = "#file:not([disabled])"
FOUND = "#results[data-encode-ms]"
MILLION = 1_000_000
SHOWN, ENLARGED = 50, 16
HARNESS = """<!doctype html><script type="module">
import * as ort from "./ort.wasm.min.mjs";
import * as bitgaze from "./index.js";
const fetched = async (name) => (await fetch(name)).blob();
ort.env.wasm.wasmBinary = await (await fetched("ort-wasm-simd-threaded.wasm")).arrayBuffer();
ort.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.mjs", location.href).href };
ort.env.wasm.numThreads = 1;
const content = new Uint8Array(await (await fetched("model.onnx")).arrayBuffer());
const model = await bitgaze.openModel(ort, content);
const hex = (bytes) => Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
window.codes = async (name, looks) =>
  hex((await bitgaze.encode(model, await fetched(name), { looks })).codes);
window.timed = async (name, runs) => {
  const gallery = await bitgaze.openFlat(await fetched(name));
  const query = await bitgaze.queryOf(gallery, 7);
  const times = [];
  for (let run = 0; run < runs; run++) {
    const code = query.codes.map((byte) => byte ^ ((run * 37) & 255));
    const begin = performance.now();
    await bitgaze.search(gallery, { ...query, codes: code }, { k: 10 });
    times.push(performance.now() - begin);
  }
  return times;
};
document.title = "ready";
</script>"""


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Serve a folder; yields its address and what stops the server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://localhost:{server.server_port}/", server.shutdown
    finally:
        server.shutdown()
        server.server_close()


def processor_seconds() -> float:
    """Processor time of the browser so far: of all processes below this one that still run."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            ticks[int(path.parent.name)] = int(fields[11]) + int(fields[12])
    own, below = os.getpid(), 0
    for process, spent in ticks.items():
        ancestor = parents[process]
        while ancestor not in (0, own):
            ancestor = parents.get(ancestor, 0)
        below += spent if ancestor == own else 0
    return below / os.sysconf("SC_CLK_TCK")


def new_page(playwright: Playwright) -> tuple[Browser, Page]:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(300_000)
    return browser, page


def compare(
    page: Page, work: Path, photos: list[Path], looks: int, encoder: Encoder, kinds: tuple[str, ...]
) -> None:
    """Share of bits that differ, of files as they are and as PNG."""
    for kind in kinds:
        expected, found = [], []
        for photo in photos:
            if kind == "as PNG":
                buffer = io.BytesIO()
                Image.open(photo).convert("RGB").save(buffer, "png", compress_level=1)
                content = buffer.getvalue()
            else:
                content = photo.read_bytes()
            (work / "photo").write_bytes(content)
            expected.append(encoder.encode([content], looks=looks).views[0])
            found.append(bytes.fromhex(page.evaluate(f"codes('photo?{len(found)}', {looks})")))
        codes = np.frombuffer(b"".join(found), np.uint8).reshape(len(found), 1 + looks, -1)
        flipped = np.unpackbits(codes ^ np.array(expected), axis=-1)
        own = flipped[:, 0].sum(axis=1)
        print(
            f"{len(photos)} photographs {kind}: {flipped[:, 0].mean():.3%} of the bits of whole "
            f"images differ, at most {own.max()} of an image; "
            f"{flipped.mean():.3%} with {looks} looks",
            flush=True,
        )


def enlarged(photos: list[Path], folder: Path) -> list[Path]:
    """What a telephone's photographs are like: large, noisy, turned by EXIF, half of them 4:2:0."""
    random = np.random.default_rng(0)
    folder.mkdir()
    for i, photo in enumerate(photos):
        with Image.open(photo) as image:
            width, height = image.size
            factor = (3, 5, 7, 9)[i % 4]
            size = (factor * width + i % 8, factor * height + 3 * (i % 3))
            pixels = np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        noise = random.normal(0, 4, (*pixels.shape[:2], 1))
        noisy = (pixels + noise).clip(0, 255).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = (1, 6, 3, 8)[i // 4 % 4]
        path = folder / f"{i:02}.jpg"
        Image.fromarray(noisy).save(path, quality=90, subsampling=2 * (i % 2), exif=exif)
    return sorted(folder.iterdir())


def million(path: Path) -> None:
    """A flat file of a million random codes of 128 bits."""
    random = np.random.default_rng(0)

    def batches() -> Iterator[Batch]:
        for first in range(0, MILLION, BATCH_ITEMS):
            count = min(BATCH_ITEMS, MILLION - first)
            codes = random.integers(0, 256, (count, 1, 16), np.uint8)
            boxes = np.zeros((count, 0, 4), np.uint16)
            keys = [f"{i:07}.jpg" for i in range(first, first + count)]
            yield Batch(codes, boxes, keys, ["{}"] * count)

    write_flat(path, Origin(128, 0), MILLION, batches())


def first_search(
    playwright: Playwright, address: str, stop: Callable[[], None], photo: Path
) -> None:
    """Times of a person's first and second visit, and where requests went."""
    browser, page = new_page(playwright)
    requested = []
    page.context.on("request", lambda request: requested.append(request.url))
    began = time.perf_counter()
    page.goto(address)
    page.wait_for_selector(LOADED, state="attached")
    seconds, spent = time.perf_counter() - began, processor_seconds()
    print(f"first load: {seconds:.2f} s, {spent:.2f} s of processor time with the browser's start")
    for visit in ("first visit", "second visit, without a network"):
        if visit != "first visit":
            page.wait_for_selector("text=Works offline")
            stop()
            page.context.set_offline(True)
            began = time.perf_counter()
            page.goto(address)
            page.wait_for_selector(LOADED, state="attached")
            print(f"load without a network: {time.perf_counter() - began:.2f} s")
        for name in ("first search", "second search"):
            page.evaluate("delete document.getElementById('results').dataset.encodeMs")
            began, before = time.perf_counter(), processor_seconds()
            page.set_input_files("#file", photo)
            page.wait_for_selector(FOUND)
            seconds, spent = time.perf_counter() - began, processor_seconds() - before
            facts = dict(page.evaluate("({...document.getElementById('results').dataset})"))
            print(
                f"{visit}, {name}: {seconds:.2f} s, {spent:.2f} s of processor time, "
                f"{json.dumps(facts)}"
            )
    foreign = [url for url in requested if not url.startswith((address, f"blob:{address}"))]
    print(f"{len(requested)} requests, {len(foreign)} of them elsewhere")
    browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--looks", type=int, default=3)
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.rglob("*") if path.is_file())[: options.count]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        work = Path(name)
        encoder = Encoder(threads=1)
        (work / "index.html").write_text(HARNESS)
        shutil.copy(ROOT / "web" / "dist" / "index.js", work)
        shutil.copy(encoder.model.path, work / "model.onnx")
        for path in (SITE / "ort").iterdir():
            shutil.copy(path, work)
        million(work / "million.flat")
        with served(work) as (address, _):
            browser, page = new_page(playwright)
            page.goto(address)
            page.wait_for_function("document.title === 'ready'")
            times = page.evaluate("timed('million.flat', 60)")[10:]
            print(
                f"1,000,000 x 128 bits, one thread: fastest {min(times):.2f} ms, "
                f"median {statistics.median(times):.2f} ms, slowest {max(times):.2f} ms"
            )
            kinds = ("as they are", "as PNG")
            compare(page, work, photos, options.looks, encoder, kinds)
            large = enlarged(photos[:ENLARGED], work / "large")
            compare(page, work, large, options.looks, encoder, ("enlarged",))
            browser.close()
        shown = work / "shown"
        shown.mkdir()
        for photo in photos[:SHOWN]:
            shutil.copy(photo, shown)
        with Gallery(work / "photos.bitgaze", encoder=encoder) as gallery:
            gallery.sync(shown)
            export_web(gallery, work / "site")
        with served(work / "site") as (address, stop):
            first_search(playwright, address, stop, photos[0])


if __name__ == "__main__":
    main()
