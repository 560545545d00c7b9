"""Speed of encoding against its limit, decoder plus network, and its memory and start-up time.

    python benchmarks/encode.py [FOLDER]

The limit is cores / (seconds to decode an image + seconds to run the network), both measured here
as processor time of one thread. Ratios use wall clock time, so the machine must be idle; the
processor time shown alongside reveals when it was not.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from bitgaze import Encoder, Gallery
from bitgaze.cores import available_cores
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.formats import SUFFIXES
from bitgaze.encoding.images import load

EXAMPLES = Path(__file__).parent.parent / "examples" / "pictures"
MANY = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    folder = parser.parse_args().folder
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:512]
    encoder = Encoder()
    print(f"{len(paths)} images, {available_cores()} cores, onnxruntime {onnxruntime.__version__}")
    pixels = [load(path, encoder.contract.preprocess) for path in paths]
    network = processor_ms(lambda: run_all(session(1), pixels), len(pixels))
    print(f"network alone              {network:8.2f} ms of one core per image")

    with tempfile.TemporaryDirectory() as temporary:
        large = twelve_megapixels(paths[:24], Path(temporary))
        for name, images in (("images", paths), ("12 megapixels", large * 8)):
            print(f"\n{name}")
            throughput(encoder, images, network)
        print("\nmemory")
        memory(encoder, paths)
        print("\na folder into a gallery")
        start = time.perf_counter()
        with Gallery(Path(temporary) / "g.bitgaze", encoder=encoder) as gallery:
            added = len(gallery.sync(folder).added)
        print(f"index                      {added / (time.perf_counter() - start):8.1f} per second")
    print("\none image")
    single(encoder, paths)


def throughput(encoder: Encoder, paths: list[Path], network: float) -> None:
    preprocess = encoder.contract.preprocess
    decoding = processor_ms(lambda: [load(path, preprocess) for path in paths], len(paths))
    limit = 1e3 * available_cores() / (decoding + network)
    # Verify before timing.
    alone = np.stack([encoder.encode([path]).codes[0] for path in paths[:32]])
    assert np.array_equal(encoder.encode(paths).codes[:32], alone)
    rates, processor = [], []
    for _ in range(5):
        start, busy = time.perf_counter(), time.process_time()
        encoder.encode(paths)
        rates.append(len(paths) / (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - busy) / len(paths))
    rate, busy_ms = max(rates), min(processor)
    print(f"decoding alone             {decoding:8.2f} ms of one core per image")
    print(f"limit                      {limit:8.1f} per second")
    print(f"encode                     {rate:8.1f} per second, {rate / limit:.2f} of the limit")
    print(f"processor time             {busy_ms:8.2f} ms per image")
    print(f"decoding and network alone {(decoding + network) / busy_ms:8.2f} of that")


def memory(encoder: Encoder, paths: list[Path]) -> None:
    """Print the resident memory of this process while it encodes many images in one call."""
    resident = {}
    done = 0

    def watch(count: int) -> None:
        nonlocal done
        done += count
        if done in (1000, MANY):
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
            resident[done] = pages * 4096 / 1e6

    encoder.encode(list(islice(cycle(paths), MANY)), on_progress=watch)
    grown = resident[MANY] - resident[1000]
    print(f"after 1,000 images       {resident[1000]:8.1f} MB")
    print(f"after {MANY:,} images      {resident[MANY]:8.1f} MB, {grown:+.1f}")


def single(encoder: Encoder, paths: list[Path]) -> None:
    bare = session(available_cores())
    runs, whole = [], []
    for path in paths[:200]:  # alternating, so that a disturbance affects both
        pixels = load(path, encoder.contract.preprocess)
        runs.append(seconds(lambda pixels=pixels: run_all(bare, [pixels])))
        whole.append(seconds(lambda path=path: encoder.encode([path])))
    session_ms, whole_ms = 1e3 * np.median(runs), 1e3 * np.median(whole)
    print(f"session alone              {session_ms:8.2f} ms, all cores")
    print(f"path to code               {whole_ms:8.2f} ms, {whole_ms / session_ms:.2f} times that")
    start = "import sys, bitgaze; bitgaze.Encoder().encode([sys.argv[1]])"
    print(f"import bitgaze             {process('import bitgaze'):8.2f} s in a new process")
    print(f"import and first code      {process(start, paths[0]):8.2f} s in a new process")


def session(threads: int) -> onnxruntime.InferenceSession:
    """Open the model in onnxruntime, without this package."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(DEFAULT_MODEL, options, providers=["CPUExecutionProvider"])


def run_all(bare: onnxruntime.InferenceSession, pixels: list[np.ndarray]) -> None:
    for image in pixels:
        bare.run(["code", "hash", "attention"], {"image": image[None]})


def twelve_megapixels(paths: list[Path], folder: Path) -> list[Path]:
    """Enlarge images to the size a camera takes: JPEGs of 4000 x 3000 pixels."""
    enlarged = []
    for number, path in enumerate(paths):
        large = Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        enlarged.append(folder / f"{number}.jpg")
        large.save(enlarged[-1], quality=90)
    return enlarged


def processor_ms(function: Callable[[], object], count: int) -> float:
    """Milliseconds of processor time per image, for `count` images: the best of three runs."""
    times = []
    for _ in range(3):
        start = time.process_time()
        function()
        times.append(1e3 * (time.process_time() - start) / count)
    return min(times)


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def process(script: str, *arguments: Path) -> float:
    """Seconds for a Python script in a new process, including the start of Python."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return min(seconds(lambda: subprocess.run(command, check=True)) for _ in range(5))


if __name__ == "__main__":
    main()
