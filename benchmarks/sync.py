"""Time to sync a gallery with a large library, without encoding.

    python benchmarks/sync.py [FILES]

Creates a library in a temporary folder: small JPEG files of different content, 500 per folder. They
enter the gallery with random codes, so that only folders, file contents and the gallery are timed.
The command is timed as a whole, including the start of Python; the files are in the system's cache.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from bitgaze import Encoded, Encoder, Gallery
from bitgaze.cores import available_cores
from bitgaze.encoding.images import ImageFile

FILES_PER_FOLDER = 500
RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=int, nargs="?", default=100_000)
    count = parser.parse_args().files
    print(f"{count:,} images, {available_cores()} cores, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as folder:
        library, path = Path(folder) / "library", Path(folder) / "g.bitgaze"
        make_library(library, count)
        with Gallery(path, encoder=random_encoder()) as gallery:
            start = time.perf_counter()
            added = len(gallery.sync(library).added)
            seconds = time.perf_counter() - start
        assert added == count
        print(f"all new, not encoded       {1e3 * seconds / count:8.3f} ms per image")
        timed("nothing changed", library, path, {"unchanged": count})
        for options in (["--exclude", "thumbs"], ["--dry-run"]):
            timed(f"  with {' '.join(options)}", library, path, {"unchanged": count}, options)
        renamed = sorted(library.iterdir())[:2]
        moved = sum(len(list(part.iterdir())) for part in renamed)
        for part in renamed:
            part.rename(part.with_name(f"renamed {part.name}"))
        expected = {"moved": moved, "unchanged": count - moved}
        timed(f"{moved:,} renamed", library, path, expected, runs=1)
        for file in library.rglob("*.jpg"):
            file.touch()
        timed("all touched", library, path, {"unchanged": count}, runs=1)


def make_library(library: Path, count: int) -> None:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 99, 200)).save(file, "JPEG")
    start, rest = file.getvalue()[:2], file.getvalue()[2:]
    for number in range(count):
        folder = library / f"{number // FILES_PER_FOLDER:05}"
        if number % FILES_PER_FOLDER == 0:
            folder.mkdir(parents=True)
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")  # length counts itself
        (folder / f"IMG_{number:07}.jpg").write_bytes(start + comment + rest)


def random_encoder() -> Encoder:
    """An encoder that returns random codes, and reads images without decoding them."""
    encoder = Encoder()
    random = np.random.default_rng(0)

    def read(source: ImageFile) -> None:
        with source.opened():
            pass

    def encode(
        sources: Sequence[ImageFile], looks: int, on_progress: Callable[[int], None]
    ) -> Encoded:
        count, bits = len(sources), encoder.bits
        with ThreadPoolExecutor(available_cores()) as pool:
            for _ in pool.map(read, sources):
                on_progress(1)
        return Encoded(
            codes=random.integers(0, 256, (count, bits // 8), dtype=np.uint8),
            hashes=np.zeros((count, bits), np.float32),
            attention=np.zeros((count, 1, 1), np.float32),
            errors={},
            stable=np.ones((count, bits), np.bool_),
            looks=np.zeros((count, 0, bits // 8), np.uint8),
            look_hashes=np.zeros((count, 0, bits), np.float32),
            boxes=np.zeros((count, 0, 4), np.float32),
            look_classes=np.zeros((count, 0), np.int64),
            structure=np.zeros((count, 32), np.uint8),
            classes=(b"",) * count,
        )

    encoder.encode = encode
    return encoder


def timed(
    name: str,
    library: Path,
    path: Path,
    expected: dict[str, int],
    options: Sequence[str] = (),
    runs: int = RUNS,
) -> None:
    """Time `bitgaze index`, check its report, and print the fastest run."""
    command = [sys.executable, "-m", "bitgaze.cli", "index", library, "-g", path, "--json"]
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        done = subprocess.run([*command, *options], capture_output=True, check=True)
        seconds.append(time.perf_counter() - start)
        report = json.loads(done.stdout)
        lists = {what: len(report[what]) for what in ("added", "updated", "moved", "removed")}
        found = {**lists, "unchanged": report["unchanged"]}
        assert {what: n for what, n in found.items() if n} == expected, found
    print(f"{name:26} {min(seconds):8.2f} s")


if __name__ == "__main__":
    main()
