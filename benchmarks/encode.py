"""How close encoding comes to the speed of decoder and network alone, and what it costs besides.

python benchmarks/encode.py [FOLDER]

The limit is cores / (seconds to decode an image + seconds to run the network), both measured here
as processor time of one thread. Ratios are of wall clock time, so the machine must be idle; the
processor time printed with them shows where it was not.
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
from bitgaze.encoding.images import SUFFIXES, load

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
    print(f"network alone              {network:8.2f} ms of one core an image")

    with tempfile.TemporaryDirectory() as place:
        large = twelve_megapixels(paths[:24], Path(place))
        for name, some in (("images", paths), ("12 megapixels", large * 8)):
            print(f"\n{name}")
            throughput(encoder, some, network)
        print("\nmemory")
        memory(encoder, paths)
        print("\na folder into a gallery")
        start = time.perf_counter()
        with Gallery(Path(place) / "g.bitgaze", encoder=encoder) as gallery:
            added = len(gallery.sync(folder).added)
        print(f"index                      {added / (time.perf_counter() - start):8.1f} a second")
    print("\none image")
    single(encoder, paths)


def throughput(encoder: Encoder, paths: list[Path], network: float) -> None:
    preprocess = encoder.contract.preprocess
    decoding = processor_ms(lambda: [load(path, preprocess) for path in paths], len(paths))
    limit = 1e3 * available_cores() / (decoding + network)
    # Verified before it is timed.
    alone = np.stack([encoder.encode([path]).codes[0] for path in paths[:32]])
    assert np.array_equal(encoder.encode(paths).codes[:32], alone)
    rates, processor = [], []
    for _ in range(5):
        start, busy = time.perf_counter(), time.process_time()
        encoder.encode(paths)
        rates.append(len(paths) / (time.perf_counter() - start))
        processor.append(1e3 * (time.process_time() - busy) / len(paths))
    print(f"decoding alone             {decoding:8.2f} ms of one core an image")
    print(f"limit                      {limit:8.1f} a second")
    print(f"encode                     {max(rates):8.1f} a second, {max(rates) / limit:.2f} of it")
    used = (decoding + network) / min(processor)
    print(f"processor time             {min(processor):8.2f} ms an image; both alone, {used:.2f}")


def memory(encoder: Encoder, paths: list[Path]) -> None:
    """Resident megabytes of this process as many images are encoded in one call."""
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
    own = session(available_cores())
    runs, whole = [], []
    for path in paths[:200]:  # in turns, so that a disturbance affects both
        pixels = load(path, encoder.contract.preprocess)
        runs.append(seconds(lambda pixels=pixels: run_all(own, [pixels])))
        whole.append(seconds(lambda path=path: encoder.encode([path])))
    session_ms, whole_ms = 1e3 * np.median(runs), 1e3 * np.median(whole)
    print(f"session's own time         {session_ms:8.2f} ms, all cores")
    print(f"path to code               {whole_ms:8.2f} ms, {whole_ms / session_ms:.2f} of it")
    start = "import sys, bitgaze; bitgaze.Encoder().encode([sys.argv[1]])"
    print(f"import bitgaze             {process('import bitgaze'):8.2f} s in a new process")
    print(f"import and first code      {process(start, paths[0]):8.2f} s in a new process")


def session(threads: int) -> onnxruntime.InferenceSession:
    """The model in a plain onnxruntime session."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(DEFAULT_MODEL, options, providers=["CPUExecutionProvider"])


def run_all(own: onnxruntime.InferenceSession, pixels: list[np.ndarray]) -> None:
    for one in pixels:
        own.run(["code", "hash", "attention"], {"image": one[None]})


def twelve_megapixels(paths: list[Path], place: Path) -> list[Path]:
    """Images like those of a camera: 4000 x 3000 JPEGs."""
    made = []
    for number, path in enumerate(paths):
        large = Image.open(path).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
        made.append(place / f"{number}.jpg")
        large.save(made[-1], quality=90)
    return made


def processor_ms(function: Callable[[], object], count: int) -> float:
    """Milliseconds of processor time for each of `count` images: the best of three runs."""
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
    """Seconds that a Python script takes in a new process, Python's own start included."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return min(seconds(lambda: subprocess.run(command, check=True)) for _ in range(5))


if __name__ == "__main__":
    main()
