"""How well a model file finds pictures of the same class, by the code that ships.

    python export/evaluate.py FOLDER                 the general model
    python export/evaluate.py FOLDER --model mine.onnx

FOLDER holds one folder per class. Some pictures, drawn by a seed, are queries; all others are the
database. A hit is right when its class is the query's.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from attention_hashing.metrics import mean_by_code, mean_by_cosine
from bitgaze import BitgazeError, Encoder, HammingIndex
from bitgaze.contract import DEFAULT_MODEL
from bitgaze.images import SUFFIXES

_FIRST = 10


def main() -> int:
    """Parse, encode, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--queries", type=int, default=1000, help="at most, and at most half")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (%(default)s)")
    arguments = parser.parse_args()
    try:
        for name, least in (("queries", 1), ("seed", 0)):
            if (value := getattr(arguments, name)) < least:
                raise ValueError(f"{name} is {value}, expected at least {least}")
        encoder = Encoder(arguments.model)
        paths = sorted(p for p in arguments.folder.glob("*/*") if p.suffix.lower() in SUFFIXES)
        if len(paths) <= 2 * _FIRST:
            raise ValueError(f"{arguments.folder}: {len(paths)} pictures in class folders, too few")
        with tqdm(total=len(paths), unit="img", disable=None) as bar:
            encoded = encoder.encode(paths, on_progress=bar.update)
        if encoded.errors:
            raise next(iter(encoded.errors.values()))
    except (BitgazeError, ValueError) as error:
        print(f"evaluate.py: {error}", file=sys.stderr)
        return 2
    names, labels = np.unique([path.parent.name for path in paths], return_inverse=True)
    order = np.random.default_rng(arguments.seed).permutation(len(paths))
    queries, database = np.split(order, [min(arguments.queries, len(paths) // 2)])

    index = HammingIndex(encoder.bits)
    index.add(encoded.codes[database])
    _, ids = index.search(encoded.codes[queries], _FIRST)
    first = labels[database][ids] == labels[queries][:, None]
    by_chance = np.mean(labels[database] == labels[queries][:, None])
    by_code = mean_by_code(encoded.codes, labels, queries, database)
    by_value = mean_by_cosine(encoded.hashes, labels, queries, database)
    print(f"{encoder.contract.name}, {encoder.bits} bits; {len(queries)} queries, ", end="")
    print(f"{len(database)} in the database, {len(names)} classes")
    print(f"mAP, Hamming, tie-aware      {by_code:.4f}")
    print(f"mAP, cosine of hash values   {by_value:.4f}")
    print(f"precision of the first {_FIRST}    {first.mean():.4f}")
    print(f"a random order would have    {by_chance:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
