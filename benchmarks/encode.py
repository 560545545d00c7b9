"""What a picture costs from file to code: decoding, the network, and both together.

python benchmarks/encode.py [FOLDER]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

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
    print(f"import bitgaze             {seconds('import bitgaze'):7.2f} s in a new process")
    first = "import sys, bitgaze; bitgaze.Encoder().encode([sys.argv[1]])"
    print(f"first code                 {seconds(first, paths[0]):7.2f} s in a new process")


def seconds(script: str, *arguments: Path) -> float:
    """Fastest of five runs of a Python script, less what an empty one takes."""

    def once(text: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", text, *arguments], check=True)
        return time.perf_counter() - start

    return min(once(script) for _ in range(5)) - min(once("pass") for _ in range(5))


if __name__ == "__main__":
    main()
