"""Measure how often an altered photograph finds its original among many other images.

    python export/near_duplicates.py ORIGINALS OTHERS... [--alone] [--looks N] [--keep FOLDER]

Each photograph is altered in twelve ways (the ten of attention_hashing.data.alterations, a collage
and a screenshot), and each version is searched for among all ORIGINALS and all images in the
folders OTHERS. For bitgaze, it is found if its original is the first hit of `Gallery.search`; by
codes alone, if its original is closer than all other images (a tie counts as a miss). Compares the
shipped model with random hyperplanes on the same network's class scores, and with the perceptual
hashes of the package imagehash (64 bits, as most people use them), except with --alone. With
--looks, a gallery with that many looks is searched. Writes a section of docs/results.md. What was
computed stays in the folder of --keep, for the next run.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attention_hashing  # noqa: F401  says what to install if a package is missing

# isort: split
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from attention_hashing.data.alterations import altered
from attention_hashing.data.folders import images_below
from attention_hashing.experiments.copies import collage, screenshot
from attention_hashing.experiments.results import write_section
from attention_hashing.general import model as general
from bitgaze import BitgazeError, Gallery, HammingIndex
from bitgaze.cores import available_cores
from bitgaze.encoding.images import upright
from bitgaze.hamming import pack

_PERCEPTUAL = {
    "pHash": imagehash.phash,
    "dHash": imagehash.dhash,
    "wHash": imagehash.whash,
}
# Alterations that move the content.
_MOVING = ("cropped", "mirrored", "rotated")
_TEN = 10

_Codes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def main() -> int:
    """Parse arguments, code everything, search, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    parser.add_argument("--looks", type=int, default=0, help="looks of the gallery")
    parser.add_argument("--alone", action="store_true", help="without the other methods")
    parser.add_argument("--keep", type=Path, help="folder for what is computed")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            keep = arguments.keep or Path(temporary)
            keep.mkdir(parents=True, exist_ok=True)
            _measure(arguments, keep)
    except (BitgazeError, ValueError) as error:
        print(f"near_duplicates.py: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(arguments: argparse.Namespace, keep: Path) -> None:
    looks, folders = arguments.looks, [arguments.originals, *arguments.others]
    originals = images_below(arguments.originals)
    others = [path for one in arguments.others for path in images_below(one)]
    names = list(_altered(upright(originals[0], 8), upright(originals[0], 8)))
    recall = _searched(originals, folders, looks, names, keep)
    if not arguments.alone:
        for method, coded in _rivals(originals, others, keep):
            recall[method] = _recall(*coded, len(names))
    calm = [i for i, name in enumerate(names[:_TEN]) if name not in _MOVING]

    def row(name: str, chosen: list[int]) -> list[str]:
        return [name, *(f"{found[chosen].mean():.3f}" for found in recall.values())]

    rows = [row(name, [i]) for i, name in enumerate(names)]
    rows.insert(_TEN, row("all ten", list(range(_TEN))))
    rows.insert(_TEN + 1, row(f"without {', '.join(_MOVING)}", calm))
    text = (
        f"Share of {len(names) * len(originals):,} altered versions of {len(originals)} "
        f"photographs that find their original first, of a collage either, among these and "
        f"{len(others):,} other images: as the first hit of a search, and by codes alone, where a "
        "tie is a miss."
    )
    words = ["as a search finds them"] * arguments.alone + [f"{looks} looks"] * bool(looks)
    title = ", ".join(["Near-duplicates", *words])
    part = " ".join(["alone"] * arguments.alone + ["looks"] * bool(looks))
    write_section("near_duplicates.py", title, text, ["alteration", *recall], rows, part=part)


def _altered(image: Image.Image, other: Image.Image) -> dict[str, Image.Image]:
    return altered(image) | {"collage": collage(image, other), "screenshot": screenshot(image)}


def _versions(originals: list[Path]) -> Iterator[Image.Image]:
    other = upright(originals[-1], 10_000)
    for path in originals:
        image = upright(path, 10_000)
        yield from _altered(image, other).values()
        other = image


def _searched(
    originals: list[Path], folders: list[Path], looks: int, names: list[str], keep: Path
) -> dict[str, NDArray[np.float64]]:
    """Recall of bitgaze's search, and of its codes alone. Of a collage, either image is right."""
    alterations, collage_at = len(names), names.index("collage")
    keys = [str(path.absolute()) for path in originals]
    with Gallery(keep / f"looks-{looks}.bitgaze", looks=looks) as gallery:
        with tqdm(unit="img", disable=None) as bar:
            gallery.sync(*folders, on_progress=lambda done, _: bar.update(done - bar.n))
        is_first, is_nearest = [], []
        count = alterations * len(originals)
        for number, image in enumerate(tqdm(_versions(originals), total=count, disable=None)):
            original, alteration = divmod(number, alterations)
            own = {keys[original], keys[original - (alteration == collage_at)]}
            query = gallery.query(image)
            is_first.append(gallery.search(query, k=1)[0].key in own)
            near = gallery.search_code(query.views if looks else query.views[0], k=2)
            is_tie = near[0].distance == near[1].distance
            is_nearest.append(near[0].key in own and not is_tie)
    return {
        method: np.array(found).reshape(-1, alterations).mean(0)
        for method, found in (("bitgaze", is_first), ("by meaning alone", is_nearest))
    }


def _rivals(originals: list[Path], others: list[Path], keep: Path) -> Iterator[tuple[str, _Codes]]:
    """Codes of the photographs and the others, and codes of the versions, by method."""
    database = originals + others

    def random_planes() -> dict[str, _Codes]:
        extract = general.extractor()
        scores = general.class_scores("both").astype(np.float32)
        # Centred on the photographs, which is the best case for random hyperplanes.
        features = extract(tqdm(database, unit="img", disable=None), lambda path: path) @ scores.T
        centre = features[: len(originals)].mean(0)
        planes = np.random.default_rng(0).standard_normal((len(scores), 128))
        of_versions = extract(_versions(originals), lambda image: image) @ scores.T
        codes = [pack((part - centre) @ planes) for part in (features, of_versions)]
        return {"LSH, 128": (codes[0], codes[1])}

    def perceptual() -> dict[str, _Codes]:
        with ThreadPoolExecutor(available_cores()) as pool:
            paths = tqdm(database, unit="img", disable=None)
            unaltered = list(pool.map(lambda path: _hashes(upright(path, 10_000)), paths))
        changed = [_hashes(image) for image in _versions(originals)]
        return {
            f"{name}, 64": (
                np.stack([row[column] for row in unaltered]),
                np.stack([row[column] for row in changed]),
            )
            for column, name in enumerate(_PERCEPTUAL)
        }

    yield from _kept(keep / "planes.npz", random_planes).items()
    yield from _kept(keep / "perceptual.npz", perceptual).items()


def _hashes(image: Image.Image) -> list[NDArray[np.uint8]]:
    return [np.packbits(hashed(image).hash) for hashed in _PERCEPTUAL.values()]


def _kept(file: Path, compute: Callable[[], dict[str, _Codes]]) -> dict[str, _Codes]:
    """What is in a file, or else computed and written to it."""
    if not file.exists():
        parts = {f"{name}/{i}": pair[i] for name, pair in compute().items() for i in (0, 1)}
        draft = file.with_suffix(".part.npz")
        np.savez(draft, **parts)
        draft.replace(file)
    with np.load(file) as parts:
        names = dict.fromkeys(name.rpartition("/")[0] for name in parts.files)
        return {name: (parts[f"{name}/0"], parts[f"{name}/1"]) for name in names}


def _recall(
    database: NDArray[np.uint8], versions: NDArray[np.uint8], alterations: int
) -> NDArray[np.float64]:
    """Share of versions whose original is the closest, by alteration: (alterations,)."""
    index = HammingIndex(8 * database.shape[1])
    index.add(database)
    own = np.arange(len(versions)) // alterations
    to_own = np.unpackbits(versions ^ database[own], axis=1).sum(1)
    distances, _ = index.search(versions, 1, exclude=own)
    return (to_own < distances[:, 0]).reshape(-1, alterations).mean(0)


if __name__ == "__main__":
    sys.exit(main())
