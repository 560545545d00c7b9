"""Measure how well two codes tell altered copies of an image from images that look alike.

    python export/copies_table.py ORIGINALS CATALOGUES...

Alters every image of the folder ORIGINALS in 19 ways, and compares both codes of each copy with its
original's: the model's semantic code, and the structural code. Then takes each folder of CATALOGUES
and nine kinds of generated screens as a gallery without copies: how near different images come, and
how often the best hit of a search is called the same image. Last, searches with each copy among the
originals, alone and together with the catalogues, with its original and without: whether what is
said of the best hit is as often true. Takes at most --most images of each folder, evenly spaced.
Prints three tables.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.screens import KINDS, screens
from attention_hashing.experiments.copies import (
    COPIES,
    Coded,
    altered,
    chances,
    coded,
    distances,
    joined,
    owners,
    some,
)
from attention_hashing.experiments.likeness import reliability, searches
from attention_hashing.experiments.results import print_section
from bitgaze import BitgazeError, Encoder

_LARGEST = 1_000_000
_BY_LAW = (
    f"Of {_LARGEST:,} images only the originals and catalogues are real: others count by the rate "
    "of false matches in the model's calibration."
)


def main() -> int:
    """Parse arguments, code everything, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("originals", type=Path)
    parser.add_argument("catalogues", type=Path, nargs="*")
    parser.add_argument("--most", type=int, default=500, help="images of each folder")
    parser.add_argument("--screens", type=int, default=100, help="generated images of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the generated images")
    arguments = parser.parse_args()
    encoder = Encoder()
    try:
        images = some(arguments.originals, arguments.most)
        originals, versions = coded(images, encoder), altered(images, encoder)
        galleries = {
            folder.name: coded(some(folder, arguments.most), encoder, with_panels=True)
            for folder in arguments.catalogues
        }
        others = list(galleries.values())
        calibration = encoder.contract.calibration_of(0)
        assert calibration is not None
        found = _searched(versions, originals, others, calibration.false_match)
        table = _copies(originals, versions, found)
        print_section("copies_table.py", "Copies", *table, part="copies")
        rows = [_catalogue(name, gallery) for name, gallery in galleries.items()]
        for kind in KINDS:
            images = screens(kind, arguments.screens, arguments.seed)
            rows.append(_catalogue(kind, coded(images, encoder, with_panels=True)))
    except (BitgazeError, ValueError) as error:
        print(f"copies_table.py: {error}", file=sys.stderr)
        return 2
    head = ["gallery without copies", "images", "no structure", "nearest structural"]
    head += ["nearest semantic", "best hit ≥ .5", "best hit ≥ .9"]
    text = "Different images. Nearest: the smallest distance of all pairs with a structure."
    print_section("copies_table.py", "Look-alikes", text, head, rows, part="look-alikes")
    table = _reliability(originals, versions, found, calibration.false_match)
    print_section("copies_table.py", "Reliability", *table, part="reliability")
    return 0


class _Searches(NamedTuple):
    """Searches with all copies in a gallery that holds their originals.

    Attributes:
        gallery: that is searched; the originals come first.
        items: to be assumed in it; None for as many as there are.
        said: what is said of each of its images, (copies, images).
    """

    gallery: Coded
    items: int | None
    said: NDArray[np.float64]

    @property
    def number(self) -> str:
        return f"{self.items or len(self.gallery.semantic):,}"


def _searched(
    versions: Coded, originals: Coded, others: list[Coded], rates: Sequence[float]
) -> list[_Searches]:
    everything = joined([originals, *others])
    return [
        _Searches(gallery, items, chances(versions, gallery, items, rates))
        for gallery, items in ((originals, None), (everything, None), (everything, _LARGEST))
    ]


def _copies(originals: Coded, versions: Coded, found: list[_Searches]) -> tuple:
    own = owners(len(originals.semantic))[:, 0]
    shape = (len(originals.semantic), len(COPIES))
    given = distances(versions.structural[:, 0], originals.structural[own, 0]).reshape(shape)
    semantic = distances(versions.semantic, originals.semantic[own]).reshape(shape)
    said = [searched.said[np.arange(len(own)), own].reshape(shape) for searched in found]
    rows = [
        [
            name,
            f"{(given[:, k] <= 31).mean():.3f}",
            f"{np.median(given[:, k]):.0f}",
            f"{np.median(semantic[:, k]):.0f}",
            *(f"{(one[:, k] >= 0.9).mean():.3f}" for one in said),
        ]
        for k, name in enumerate(COPIES)
    ]
    head = ["copy", "structural ≤ 31", "structural, median", "semantic, median"]
    head += [f"same image ≥ .9 among {searched.number}" for searched in found]
    return f"Of {len(originals.semantic)} images. {_BY_LAW}", head, rows


def _reliability(
    originals: Coded, versions: Coded, found: list[_Searches], rates: Sequence[float]
) -> tuple:
    own = owners(len(originals.semantic))
    is_known = versions.structural[:, 0].any(axis=1)
    rows = []
    for searched in found:
        said = np.nan_to_num(searched.said[is_known])
        best = said.argmax(axis=1)
        absent = searches(
            versions, own, searched.gallery, searched.items, rates, with_original=False
        )
        chance = np.concatenate([said.max(axis=1), absent[0]])
        truth = np.concatenate([(best[:, None] == own[is_known]).any(axis=1), absent[1]])
        shown = chance >= 0.5
        tenths = dict.fromkeys(range(5, 10), "")
        for edge, number, claimed, true in reliability(chance, truth):
            tenths[round(10 * edge)] = f"{number}: {claimed:.2f}, {true:.2f}"
        wrong = int(((chance >= 0.9) & ~truth).sum())
        squares = (np.where(shown, chance, 0) - truth) ** 2
        brier = f"{squares.mean():.4f}", f"{squares[shown].mean():.4f}"
        rows.append([searched.number, str(len(chance)), *brier, str(wrong), *tenths.values()])
    head = ["images", "searches", "Brier score", "of those shown", "wrong at ≥ .9"]
    head += [f".{tenth} to {'1' if tenth == 9 else f'.{tenth + 1}'}" for tenth in range(5, 10)]
    text = f"Searches with copies, original present or not. Tenths: searches, said, true. {_BY_LAW}"
    return text, head, rows


def _catalogue(name: str, gallery: Coded) -> list[str]:
    known = gallery.structural[:, 0].any(1)
    one, other = np.triu_indices(len(known), 1)
    both = known[one] & known[other]
    one, other = one[both], other[both]
    said = chances(gallery, gallery, exclude_own=True)
    best = np.nanmax(said, axis=1, initial=0)
    nearest = ["", ""]
    if len(one):
        structural = distances(gallery.structural[one, 0], gallery.structural[other, 0])
        semantic = distances(gallery.semantic[one], gallery.semantic[other])
        nearest = [str(structural.min()), str(semantic.min())]
    shares = [f"{(best >= least).mean():.4f}" for least in (0.5, 0.9)]
    return [name, str(len(known)), f"{1 - known.mean():.2f}", *nearest, *shares]


if __name__ == "__main__":
    sys.exit(main())
