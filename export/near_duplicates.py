"""Measure how often an altered photograph finds its original among many other images.

    python export/near_duplicates.py ORIGINALS OTHERS...

Each photograph is altered in ten ways (attention_hashing.data.alterations), and each version is
searched for among all ORIGINALS and all images in the folders OTHERS. It is found if its original
is closer than all other images; a tie counts as a miss. Compares the shipped model with random
hyperplanes on the same network's class scores, and with the perceptual hashes of the package
imagehash (64 bits, as most people use them). Writes a section of docs/results.md.
"""

import argparse
import sys
from collections.abc import Iterator
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
from attention_hashing.experiments.results import write_section
from attention_hashing.general import model as general
from bitgaze import BitgazeError, Encoder, HammingIndex
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


def main() -> int:
    """Parse arguments, code everything, search, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path)
    parser.add_argument("others", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        originals = images_below(arguments.originals)
        others = [path for folder in arguments.others for path in images_below(folder)]
        names = list(altered(upright(originals[0], 8)))
        recall = {
            method: _recall(*coded, len(names))
            for method, coded in _all_codes(originals, others, len(names)).items()
        }
    except (BitgazeError, ValueError) as error:
        print(f"near_duplicates.py: {error}", file=sys.stderr)
        return 2
    calm = [i for i, name in enumerate(names) if name not in _MOVING]
    rows = [
        [name, *(f"{found[i]:.3f}" for found in recall.values())] for i, name in enumerate(names)
    ]
    rows.append(["all ten", *(f"{found.mean():.3f}" for found in recall.values())])
    rows.append(
        [f"without {', '.join(_MOVING)}", *(f"{f[calm].mean():.3f}" for f in recall.values())]
    )
    text = (
        f"Recall at 1 of {len(names) * len(originals):,} altered versions of {len(originals)} "
        f"photographs, among these and {len(others):,} other images. A tie is a miss."
    )
    write_section("near_duplicates.py", "Near-duplicates", text, ["alteration", *recall], rows)
    return 0


def _versions(originals: list[Path]) -> Iterator[Image.Image]:
    for path in originals:
        yield from altered(upright(path, 10_000)).values()


_Codes = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def _all_codes(originals: list[Path], others: list[Path], alterations: int) -> dict[str, _Codes]:
    """Codes of the photographs and the others, and codes of the versions, by method."""
    encoder = Encoder()
    database = originals + others
    with tqdm(total=len(database) + alterations * len(originals), unit="img", disable=None) as bar:
        coded = encoder.encode(database, on_progress=bar.update)
        coded_versions = encoder.encode(_versions(originals), on_progress=bar.update)
    if coded.errors or coded_versions.errors:
        raise next(iter([*coded.errors.values(), *coded_versions.errors.values()]))
    found = {f"bitgaze, {encoder.bits}": (coded.codes, coded_versions.codes)}
    extract = general.extractor()
    scores = general.class_scores("both").astype(np.float32)
    # Centred on the photographs, which is the best case for random hyperplanes.
    features = extract(tqdm(database, unit="img", disable=None), lambda path: path) @ scores.T
    centre = features[: len(originals)].mean(0)
    planes = np.random.default_rng(0).standard_normal((len(scores), encoder.bits))
    plane_codes = [
        pack((part - centre) @ planes)
        for part in (features, extract(_versions(originals), lambda image: image) @ scores.T)
    ]
    found[f"LSH, {encoder.bits}"] = (plane_codes[0], plane_codes[1])

    def perceptual(image: Image.Image) -> list[NDArray[np.uint8]]:
        return [np.packbits(hashed(image).hash) for hashed in _PERCEPTUAL.values()]

    with ThreadPoolExecutor(available_cores()) as pool:
        unaltered = list(
            pool.map(lambda path: perceptual(upright(path, 10_000)), tqdm(database, disable=None))
        )
        changed = [perceptual(image) for image in _versions(originals)]
    for column, name in enumerate(_PERCEPTUAL):
        pair = (np.stack([row[column] for row in rows]) for rows in (unaltered, changed))
        found[f"{name}, 64"] = (next(pair), next(pair))
    return found


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
