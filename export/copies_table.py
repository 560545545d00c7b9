"""Measure how well two codes tell altered copies of an image from images that look alike.

    python export/copies_table.py ORIGINALS CATALOGUES...

Alters every image of the folder ORIGINALS in 18 ways, and compares both codes of each copy with its
original's: the model's semantic code, and the structural code. Then takes each folder of CATALOGUES
and nine kinds of generated screens as a gallery without copies: how near different images come, and
how often the best hit of a search is called the same image. Takes at most --most images of each
folder, evenly spaced. Prints two tables.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from attention_hashing.data.folders import images_below
from attention_hashing.data.screens import KINDS, screens
from attention_hashing.experiments.copies import Coded, chances, coded, copies, distances
from attention_hashing.experiments.results import print_section
from bitgaze import BitgazeError, Encoder
from bitgaze.encoding.images import upright

_LEAST_SIDE = 100


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
        print_section("copies_table.py", "Copies", *_copies(arguments, encoder), part="copies")
        rows = [
            _catalogue(folder.name, coded(_some(folder, arguments.most), encoder))
            for folder in arguments.catalogues
        ]
        for kind in KINDS:
            images = screens(kind, arguments.screens, arguments.seed)
            rows.append(_catalogue(kind, coded(images, encoder)))
    except (BitgazeError, ValueError) as error:
        print(f"copies_table.py: {error}", file=sys.stderr)
        return 2
    head = ["gallery without copies", "images", "no structure", "nearest structural"]
    head += ["nearest semantic", "best hit ≥ .5", "best hit ≥ .9"]
    text = "Different images. Nearest: the smallest distance of all pairs with a structure."
    print_section("copies_table.py", "Look-alikes", text, head, rows, part="look-alikes")
    return 0


def _some(folder: Path, most: int) -> list:
    paths = images_below(folder)
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, most).astype(int))]
    images = (upright(path, 10_000) for path in chosen)
    return [image for image in images if min(image.size) >= _LEAST_SIDE]


def _copies(arguments: argparse.Namespace, encoder: Encoder) -> tuple:
    images = _some(arguments.originals, arguments.most)
    originals = coded(images, encoder)
    names = list(copies(images[0], images[0], 0))
    versions = coded(
        (
            version
            for i, image in enumerate(images)
            for version in copies(image, images[i - 1], i).values()
        ),
        encoder,
    )
    own = np.repeat(np.arange(len(images)), len(names))
    shape = (len(images), len(names))
    given = distances(versions.structural[:, 0], originals.structural[own, 0]).reshape(shape)
    turned = distances(versions.structural, originals.structural[own, :1]).min(1).reshape(shape)
    semantic = distances(versions.semantic, originals.semantic[own]).reshape(shape)
    said = chances(versions, originals)[np.arange(len(own)), own].reshape(shape)
    among = chances(versions, originals, 1_000_000)[np.arange(len(own)), own].reshape(shape)
    rows = [
        [
            name,
            f"{(given[:, k] <= 31).mean():.3f}",
            f"{(given[:, k] <= 60).mean():.3f}",
            f"{np.median(given[:, k]):.0f}",
            f"{np.median(turned[:, k]):.0f}",
            f"{np.median(semantic[:, k]):.0f}",
            f"{(said[:, k] >= 0.9).mean():.3f}",
            f"{(among[:, k] >= 0.9).mean():.3f}",
        ]
        for k, name in enumerate(names)
    ]
    text = f"Of {len(images)} images; structural distance, nearest of eight orientations, semantic."
    head = ["copy", "structural ≤ 31", "≤ 60", "median", "turned, median", "semantic, median"]
    return text, [*head, f"same image ≥ .9 among {len(images)}", "among 1,000,000"], rows


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
