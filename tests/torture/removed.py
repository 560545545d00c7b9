"""Removed data are not in the bytes of the file, nor in those of its log.

    python tests/torture/removed.py --count 300

Each case creates a gallery, changes it at random, and searches the files for every key, code and
metadata value that it no longer holds.
"""

import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
from quick import BITS
from supervised import Case, main, run

from bitgaze import Gallery, Item

_ROUNDS = 12


def make_case(root: Path) -> Case:
    """A case for `supervised.run`."""
    folder = Path(tempfile.mkdtemp(dir=root))
    path = folder / "removed.bitgaze"

    def case(seed: int) -> str:
        random = np.random.default_rng(seed)
        gone: dict[str, bytes] = {}
        held: dict[str, Item] = {}
        with Gallery(path) as gallery:
            for _ in range(_ROUNDS):
                _change(gallery, held, gone, random)
                assert len(gallery) == len(held)
                if random.random() < 0.3:
                    gallery.compact()
                    _check_gone(folder, gone, "compacted")
        _check_gone(folder, gone, "closed")
        for file in folder.iterdir():
            file.unlink()
        return "clean"

    return case


def _change(
    gallery: Gallery, held: dict[str, Item], gone: dict[str, bytes], random: np.random.Generator
) -> None:
    """Make one change, and update the expected items (`held`) and removed bytes (`gone`)."""
    some = random.permutation(sorted(held))[: int(random.integers(1, 60))].tolist()
    match int(random.integers(6)):
        case 0 | 1:
            new = [_item(random) for _ in range(int(random.integers(1, 400)))]
            gallery.upsert(new)
            held.update({item.key: item for item in new})
        case 2 if some:
            gallery.remove(*some)
            for key in some:
                _forget(gone, held.pop(key))
        case 3 if some:  # new codes and metadata
            new = [Item(key, *_code_and_metadata(random)) for key in some]
            gallery.upsert(new)
            for item in new:
                _forget(gone, held[item.key], is_key_held=True)
                held[item.key] = item
        case 4 if some:
            item = held.pop(some[0])
            new = Item(_token(random), item.code, item.metadata)
            gallery.rename(item.key, new.key)
            held[new.key] = new
            gone[f"key {item.key}"] = item.key.encode()
        case 5 if some:
            _, metadata = _code_and_metadata(random)
            old = held[some[0]]
            gallery.set_metadata(old.key, metadata)
            held[old.key] = Item(old.key, old.code, metadata)
            gone[f"metadata of {old.key}"] = old.metadata["m"].encode()


def _check_gone(folder: Path, gone: dict[str, bytes], when: str) -> None:
    """Check that no file contains any of the removed bytes."""
    for file in folder.iterdir():
        content = file.read_bytes()
        for name, secret in gone.items():
            at = content.find(secret)
            assert at < 0, f"{when}: {name} is in {file.name} at {at} of {len(content)}"


def _forget(gone: dict[str, bytes], item: Item, *, is_key_held: bool = False) -> None:
    gone[f"code of {item.key}"] = item.code.tobytes()
    gone[f"metadata of {item.key}"] = item.metadata["m"].encode()
    if not is_key_held:
        gone[f"key {item.key}"] = item.key.encode()


def _item(random: np.random.Generator) -> Item:
    return Item(_token(random), *_code_and_metadata(random))


def _code_and_metadata(random: np.random.Generator) -> tuple[np.ndarray, dict[str, str]]:
    code = random.integers(0, 256, BITS // 8, dtype=np.uint8)
    # Sometimes so long that it needs overflow pages.
    length = 3000 if random.random() < 0.03 else int(random.integers(8, 60))
    return code, {"m": random.bytes(length).hex()}


def _token(random: np.random.Generator) -> str:
    return random.bytes(int(random.integers(8, 40))).hex()


def remove(seeds: range, jobs: int) -> Counter[str]:
    """Change a gallery for each seed."""
    with tempfile.TemporaryDirectory() as name:
        return run(partial(make_case, Path(name)), seeds, jobs=jobs)


if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 300, remove))
