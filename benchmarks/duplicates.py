"""Duplicates among many images: time, memory, which copies are found, and which pairs are wrong.

    python benchmarks/duplicates.py FOLDERS... [--every 10] [--fill 100000]
    python benchmarks/duplicates.py FOLDERS... --keep FOLDER --sheets FOLDER

Takes all images of the folders, and a crop or a messenger's copy of every tenth; a group with two
of these images is wrong, if they are different. The folders may hold near-copies themselves: with
`--sheets`, each such group is drawn, to be looked at. `--fill` adds codes without a file until
there are that many items: those of the images with 15 % of the semantic and 40 % of the structural
bits changed at random, so that they are near in meaning and no copies. With `--keep`, gallery and
copies stay in a folder, for the next run.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from bitgaze import Gallery
from bitgaze.encoding.images import upright
from bitgaze.gallery.duplicates import DuplicateGroup

_EXTENSIONS = {".jpg", ".jpeg", ".png", ".webp"}
# Groups on a sheet, pixels of an image, images of a group.
_GROUPS, _SIDE, _MEMBERS = 24, 96, 8


def main() -> None:
    """Parse arguments, fill a gallery, find duplicates, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--every", type=int, default=10, help="images of which one is copied")
    parser.add_argument("--fill", type=int, default=0, help="items to have in the end")
    parser.add_argument("--rotated", action="store_true", help="as `Gallery.duplicates` takes it")
    parser.add_argument("--keep", type=Path, help="folder for gallery and copies")
    parser.add_argument("--sheets", type=Path, help="folder for drawings of groups")
    arguments = parser.parse_args()
    if arguments.keep and arguments.fill:
        parser.error("--fill would stay in the gallery: leave out --keep")
    with tempfile.TemporaryDirectory() as temporary:
        _measure(arguments, arguments.keep or Path(temporary))


def _measure(arguments: argparse.Namespace, folder: Path) -> None:
    copies = folder / "copies"
    copies.mkdir(parents=True, exist_ok=True)
    name = folder / "all.bitgaze" if arguments.keep else ":memory:"
    with Gallery(name, looks=0) as gallery:
        start = time.perf_counter()
        copied = _copied(arguments.folders, copies, arguments.every)
        gallery.sync(*arguments.folders, copies)
        print(f"{len(gallery):,} images, {time.perf_counter() - start:.0f} s to index", flush=True)
        _fill(gallery, arguments.fill)
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        groups = gallery.duplicates(rotated=arguments.rotated)
        after, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - start
        right, mixed = 0, []
        for group in groups:
            keys = [group.best.key, *(other.key for other in group.others)]
            different = {copied.get(key, key) for key in keys}
            right += len(keys) - len(different)
            if len(different) > 1:
                mixed.append(group)
        print(
            f"{len(gallery):,} items: {wall:.1f} s, {after.ru_utime - before.ru_utime:.1f} s of "
            f"CPU, peak memory of the process {after.ru_maxrss // 1024} MB; {len(groups)} groups; "
            f"{right} of {len(copied)} copies found, {len(mixed)} groups of several images"
        )
        for number, group in enumerate(mixed):
            tiers = {other.tier for other in group.others if other.tier}
            print(f"{number:4}", *sorted(tiers), group.best.key, *(o.key for o in group.others))
        if arguments.sheets:
            _draw(mixed, arguments.sheets)


def _copied(folders: list[Path], copies: Path, every: int) -> dict[str, str]:
    """Make copies of every n-th image; key of each to that of its original."""
    found = [
        path
        for root in folders
        for path in sorted(root.rglob("*"))
        if path.suffix.lower() in _EXTENSIONS
    ]
    copied = {}
    for number, path in enumerate(found[::every]):
        copy = copies / f"{every}-{number}.jpg"
        if not copy.exists():
            _copy(upright(path, 10_000), number).save(copy, quality=60)
        copied[str(copy.absolute())] = str(path.absolute())
    return copied


def _copy(image: Image.Image, number: int) -> Image.Image:
    """A crop of 70 to 100 % of each side, or a copy of at most 256 pixels, in turn."""
    if number % 2:
        image.thumbnail((256, 256))
        return image
    shares = np.random.default_rng(number).uniform(0.7, 1, 2)
    width, height = (round(side * share) for side, share in zip(image.size, shares, strict=True))
    return image.crop((0, 0, width, height))


def _draw(groups: list[DuplicateGroup], folder: Path) -> None:
    """Draw groups, one a row, with their numbers: 24 on a sheet, eight images of each at most."""
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(groups), _GROUPS):
        rows = groups[first : first + _GROUPS]
        sheet = Image.new("RGB", (40 + _MEMBERS * _SIDE, len(rows) * _SIDE), "white")
        draw = ImageDraw.Draw(sheet)
        for row, group in enumerate(rows):
            draw.text((4, row * _SIDE + 40), str(first + row), "black")
            paths = [one.path for one in (group.best, *group.others) if one.path is not None]
            for column, path in enumerate(paths[:_MEMBERS]):
                image = ImageOps.contain(upright(path, 10_000), (_SIDE - 4, _SIDE - 4))
                sheet.paste(image, (40 + column * _SIDE, row * _SIDE))
        sheet.save(folder / f"groups-{first // _GROUPS:03}.png")


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
