"""Damaged flat files: Python and C++ agree on which are damaged, and neither reads outside of one.

    python tests/torture/damage_flat.py --count 20000

The environment variable USE_FLAT names the C++ program, csrc/tests/use_flat.cpp, best built with
sanitizers; without it, only Python reads. Two files of three get a header that is right, so that
what lies behind it is reached.
"""

import os
import resource
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from damage import ANY, damaged
from supervised import Case, main, run

from bitgaze import FlatGallery, GalleryCorrupt, GalleryError
from bitgaze.gallery.adaptation import Adaptation
from bitgaze.gallery.flat.writer import Batch, Origin, write_flat

_ITEMS, _BITS, _LOOKS = 70, 128, 2
# C++ has no SHA-256 to compare the adaptation with that of a header that was made up.
_UNSEEN = "section adapt is not the one that the header names"


def write_sound(path: Path) -> None:
    """Write a small flat file with every section."""
    random = np.random.default_rng(0)
    batch = Batch(
        random.integers(0, 256, (_ITEMS, 1 + _LOOKS, _BITS // 8), dtype=np.uint8),
        random.integers(0, 65536, (_ITEMS, _LOOKS, 4), dtype=np.uint16),
        [f"item {i}" for i in range(_ITEMS)],
        ["{}"] * _ITEMS,
    )
    adaptation = Adaptation(np.zeros(_BITS, np.float32), np.eye(_BITS, dtype=np.float32))
    write_flat(path, Origin(_BITS, _LOOKS, adaptation=adaptation), _ITEMS, [batch])


def made_up(content: bytes, seed: int) -> bytes:
    """A damaged copy of a flat file; of most, the header says that it is right."""
    copy = bytearray(damaged(content, ANY, np.random.default_rng(seed)))
    if seed % 3 and len(copy) > 500:
        copy[:20] = content[:20]
        copy[24:32] = len(copy).to_bytes(8, "little")
        copy[12:16] = bytes(4)
        size = int.from_bytes(copy[16:20], "little")
        copy[12:16] = zlib.crc32(copy[:size]).to_bytes(4, "little")
    return bytes(copy)


def state(path: Path) -> str:
    """What a file is to Python, after everything was called."""
    try:
        with FlatGallery(path) as flat:
            problems = [text for text in flat.verify() if _UNSEEN not in text]
            use(flat)
            return "damaged" if problems else "sound"
    except GalleryCorrupt:
        return "damaged"
    except GalleryError:
        return "no flat file"


def use(flat: FlatGallery) -> None:
    """Call everything that reads; only GalleryError is allowed."""
    query = np.zeros((2, flat.bits // 8), np.uint8)
    slots = np.arange(len(flat)) % 3 == 0
    for call in (
        lambda: list(flat),
        lambda: list(flat.items()),
        lambda: [f"item {i}" in flat for i in range(_ITEMS + 3)],
        lambda: [flat.search(key, k=100, filter=slots) for key in islice(flat, 3)],
        lambda: flat.search_codes(query, k=100, radius=50),
    ):
        try:
            call()
        except (GalleryError, KeyError):  # KeyError: the lookup has lost a key
            continue


def states_in_c_plus_plus(program: Path | str, paths: list[Path]) -> list[str]:
    """What files are to the program."""
    # A sanitizer reserves more addresses than a case may have.
    free = partial(resource.setrlimit, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
    done = subprocess.run([program, *paths], capture_output=True, text=True, preexec_fn=free)
    assert done.returncode == 0, done.stderr[-3000:]
    words = {"0 problems": "sound", "damaged": "damaged", "no flat file": "no flat file"}
    return [words.get(line, "damaged") for line in done.stdout.splitlines()]


def make_case(folder: Path) -> Case:
    """The case of a damaged file."""
    sound, path = folder / "sound", folder / f"{os.getpid()}"
    content, program = sound.read_bytes(), os.environ.get("USE_FLAT")

    def case(seed: int) -> str:
        path.write_bytes(made_up(content, seed))
        word = state(path)
        if program:
            assert states_in_c_plus_plus(program, [path]) == [word]
        return word

    return case


def damage_flat(seeds: range, jobs: int) -> Counter[str]:
    """Damage a flat file for each seed."""
    with tempfile.TemporaryDirectory() as folder:
        write_sound(Path(folder, "sound"))
        return run(partial(make_case, Path(folder)), seeds, jobs=jobs)


if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 20_000, damage_flat))
