"""Duplicates among many images: time, memory, which copies are found, and which pairs are wrong.

    python benchmarks/duplicates.py FOLDERS... [--every 10] [--fill 100000]

Takes all images of the folders, which should be different, and a crop or a messenger's copy of
every tenth; a group with two of these is wrong. `--fill` adds codes without a file until there are
that many items: those of the images with 15 % of the semantic and 40 % of the structural bits
changed at random, so that they are near in meaning and no copies.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze import Gallery
from bitgaze.encoding.images import upright

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}


def main() -> None:
    """Parse arguments, fill a gallery, find duplicates, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=10, help="images of which one is copied")
    parser.add_argument("--fill", type=int, default=0, help="items to have in the end")
    parser.add_argument("--rotated", action="store_true", help="as `Gallery.duplicates` takes it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Gallery(":memory:", looks=0) as gallery:
        found = [
            path
            for root in arguments.folders
            for path in sorted(root.rglob("*"))
            if path.suffix.lower() in _EXTENSIONS
        ]
        copied = {}
        for number, path in enumerate(found[:: arguments.every]):
            copy = Path(folder, f"{number}.jpg")
            _copy(upright(path, 10_000), number).save(copy, quality=60)
            copied[str(copy.resolve())] = str(path.absolute())
        start = time.perf_counter()
        gallery.sync(*arguments.folders, folder)
        print(f"{len(gallery):,} images, {time.perf_counter() - start:.0f} s to index")
        _fill(gallery, arguments.fill)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        groups = gallery.duplicates(rotated=arguments.rotated)
        after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
        right, wrong = 0, []
        for group in groups:
            keys = [group.best.key, *(other.key for other in group.others)]
            different = {copied.get(key, key) for key in keys}
            right += len(keys) - len(different)
            if len(different) > 1:
                wrong.append(sorted(different))
        print(
            f"{len(gallery):,} items: {wall:.1f} s, {after.ru_utime - before.ru_utime:.1f} s of "
            f"CPU, peak memory of the process {after.ru_maxrss // 1024} MB; {right} of "
            f"{len(copied)} copies found, {len(wrong)} groups of different images"
        )
        for names in wrong:
            print("   ", *names)


def _copy(image: Image.Image, number: int) -> Image.Image:
    """A crop of 70 to 100 % of each side, or a copy of at most 256 pixels, in turn."""
    if number % 2:
        image.thumbnail((256, 256))
        return image
    shares = np.random.default_rng(number).uniform(0.7, 1, 2)
    width, height = (round(side * share) for side, share in zip(image.size, shares, strict=True))
    return image.crop((0, 0, width, height))


def _fill(gallery: Gallery, count: int) -> None:
    items = [gallery.get(key) for key in gallery]
    rng, batch = np.random.default_rng(0), []
    for number in range(len(items), count):
        item = items[number % len(items)]
        structure = None
        if item.structure is not None:
            structure = _changed(item.structure, 0.4, rng)
        batch.append(
            replace(
                item,
                key=f"filler {number}",
                code=_changed(item.code, 0.15, rng),
                structure=structure,
                file=None,
            )
        )
    gallery.upsert(batch)


def _changed(code: NDArray[np.uint8], share: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    return code ^ np.packbits(rng.random(8 * len(code)) < share)


if __name__ == "__main__":
    main()
