"""What a picture costs from file to code: decoding, the network, and both together.

python benchmarks/encode.py [FOLDER]
"""

import argparse
import io
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from bitgaze import Encoder
from bitgaze.encoder import BATCH_SIZE, available_cores
from bitgaze.images import SUFFIXES, load

EXAMPLES = Path(__file__).parent.parent / "examples" / "pictures"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=EXAMPLES)
    folder = parser.parse_args().folder
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)[:512]
    encoder = Encoder()
    print(f"{len(paths)} pictures, {available_cores()} cores, batches of {BATCH_SIZE}")

    start = time.perf_counter()
    pixels = np.stack([load(path, encoder.contract.preprocess) for path in paths])
    decoding = (time.perf_counter() - start) / len(paths)
    encoder.encode(list(pixels[:BATCH_SIZE]))  # the first run allocates
    start = time.perf_counter()
    encoder.encode(list(pixels))
    network = (time.perf_counter() - start) / len(paths)
    start = time.perf_counter()
    encoder.encode(paths)
    both = (time.perf_counter() - start) / len(paths)
    singles = []
    for path in paths[:50]:
        start = time.perf_counter()
        encoder.encode([path])
        singles.append(time.perf_counter() - start)
    print(f"decoding, one thread       {1e3 * decoding:7.2f} ms a picture")
    print(f"network, all cores         {1e3 * network:7.2f} ms a picture")
    print(f"file to code, all cores    {1e3 * both:7.2f} ms a picture, {1 / both:.0f} a second")
    print(f"one picture, file to code  {1e3 * np.median(singles):7.2f} ms")
    large, plain = twelve_megapixels(paths[0], encoder)
    print(
        f"12-megapixel JPEG          {large:7.2f} ms decoded, {plain:.0f} ms without reduced scale"
    )
    print(f"import bitgaze             {seconds('import bitgaze'):7.2f} s in a new process")
    first = "import sys, bitgaze; bitgaze.Encoder().encode([sys.argv[1]])"
    print(f"first code                 {seconds(first, paths[0]):7.2f} s in a new process")


def twelve_megapixels(picture: Path, encoder: Encoder) -> tuple[float, float]:
    """Milliseconds to load a 4000 x 3000 JPEG our way, and by decoding it whole."""
    size = encoder.contract.preprocess.size
    stream = io.BytesIO()
    Image.open(picture).convert("RGB").resize((4000, 3000)).save(stream, "jpeg", quality=90)
    content = stream.getvalue()

    def ours() -> None:
        load(content, encoder.contract.preprocess)

    def whole() -> None:
        Image.open(io.BytesIO(content)).convert("RGB").resize(
            (size, size), Image.Resampling.BICUBIC
        )

    return 1e3 * fastest(ours), 1e3 * fastest(whole)


def fastest(function: Callable[[], None]) -> float:
    """Seconds of the fastest of five runs."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def seconds(script: str, *arguments: Path) -> float:
    """What a Python script takes in a new process, less what an empty one takes."""

    def run(text: str) -> Callable[[], None]:
        command = [sys.executable, "-c", text, *map(str, arguments)]

        def once() -> None:
            subprocess.run(command, check=True)

        return once

    return fastest(run(script)) - fastest(run("pass"))


if __name__ == "__main__":
    main()
