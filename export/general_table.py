"""Measure what the general model loses by hashing, on data sets that it was not made with.

    python export/general_table.py IMAGES FOLDERS...

FOLDERS contain one folder per class (or CIFAR-10, or the IDX files of Fashion-MNIST); IMAGES are
those that the hash layer was fitted to. Measures tie-aware mAP of the shipped model's codes, of
codes adapted to the set, and of the cosine of the class scores that the codes are made from; and
the same for hash layers fitted to the whole image alone and to the attended part alone. Writes a
section of docs/results.md.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from attention_hashing.data.folders import images_below
from attention_hashing.data.labelled import Labelled, read
from attention_hashing.evaluation.metrics import mean_by_code, mean_by_cosine
from attention_hashing.experiments.results import write_section
from attention_hashing.general import model as general
from bitgaze import BitgazeError
from bitgaze.gallery import adaptation
from bitgaze.hamming import pack

_QUERIES = 1000
_MAX_IMAGES = 10_000
_LAYER = Path(__file__).parent / "general.npz"


def main() -> int:
    """Parse arguments, fit the layers, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    arguments = parser.parse_args()
    try:
        images = images_below(arguments.images)
        sets = {f"{f.parent.name}/{f.name}": _some(read(f)) for f in arguments.folders}
        shipped = general.Fitted.load(_LAYER).layer
        bits = len(shipped.threshold)
        general.check(bits, 0, len(images))
        extract = general.extractor()
        seen = general.versions(extract, images, 0)
    except (BitgazeError, ValueError) as error:
        print(f"general_table.py: {error}", file=sys.stderr)
        return 2
    layers = {
        "both": shipped,
        "whole image": general.fit(seen, bits, 0, "global"),
        "attended part": general.fit(seen, bits, 0, "local"),
    }
    scores = general.class_scores("both").astype(np.float32)
    rows = []
    for name, data in sets.items():
        features = extract(list(data.images), lambda image: image)
        order = np.random.default_rng(0).permutation(len(data))
        queries, database = np.split(order, [min(_QUERIES, len(data) // 2)])
        points = features @ scores.T
        cosine = mean_by_cosine(points, data.labels, queries, database)
        centred = mean_by_cosine(points - points[database].mean(0), data.labels, queries, database)
        for parts, layer in layers.items():
            values = layer.values(features)
            plain = mean_by_code(pack(values), data.labels, queries, database)
            fitted = adaptation.fit(values[database])
            adapted = mean_by_code(pack(fitted.apply(values)), data.labels, queries, database)
            row = [name, parts, plain, adapted, cosine, centred]
            rows.append(
                [
                    *row[:2],
                    *(f"{value:.3f}" for value in row[2:]),
                    f"{plain / cosine:.2f}",
                    f"{adapted / cosine:.2f}",
                ]
            )
    text = (
        f"Tie-aware mAP at {bits} bits; {_QUERIES:,} queries, or half of the images; the others "
        f"are the database; up to {_MAX_IMAGES:,} images per set. Adapted: to the database, "
        "without labels, as by `gallery.adapt()`. Cosine: of the class scores of whole image and "
        "attended part, as they are and centred on the database."
    )
    head = [
        "set",
        "hashed",
        "codes",
        "adapted",
        "cosine",
        "centred",
        "codes / cosine",
        "adapted / cosine",
    ]
    write_section("general_table.py", "The general model", text, head, rows)
    return 0


def _some(data: Labelled) -> Labelled:
    order = np.random.default_rng(0).permutation(len(data))[:_MAX_IMAGES]
    return data.subset(np.sort(order))


if __name__ == "__main__":
    sys.exit(main())
