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
from numpy.typing import NDArray
from tqdm import tqdm

from attention_hashing.metrics import average_precision
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
    names = np.array([path.parent.name for path in paths])
    order = np.random.default_rng(arguments.seed).permutation(len(paths))
    queries, database = np.split(order, [min(arguments.queries, len(paths) // 2)])

    index = HammingIndex(encoder.bits)
    index.add(encoded.codes[database])
    distances, ids = index.search(encoded.codes[queries], len(database))
    right = names[database][ids] == names[queries][:, None]
    by_code = [average_precision(d, r) for d, r in zip(distances, right, strict=True)]
    by_value = _float_precision(encoded.hashes, names, queries, database)
    print(f"{encoder.contract.name}, {encoder.bits} bits; {len(queries)} queries, ", end="")
    print(f"{len(database)} in the database, {len(set(names))} classes")
    print(f"mAP, Hamming, tie-aware      {np.mean(by_code):.4f}")
    print(f"mAP, cosine of hash values   {by_value:.4f}")
    print(f"precision of the first {_FIRST}    {right[:, :_FIRST].mean():.4f}")
    print(f"a random order would have    {np.mean(right):.4f}")
    return 0


def _float_precision(
    hashes: NDArray[np.float32],
    names: NDArray[np.str_],
    queries: NDArray[np.intp],
    database: NDArray[np.intp],
) -> float:
    """MAP of the values before they become bits: what the code could reach at most."""
    unit = hashes / np.linalg.norm(hashes, axis=1, keepdims=True)
    results = []
    for query in queries:
        ranks = np.argsort(-(unit[database] @ unit[query]), kind="stable")
        # Distinct values: each rank is a distance of its own.
        right = (names[database] == names[query])[ranks]
        results.append(average_precision(np.arange(len(ranks), dtype=np.int32), right))
    return float(np.mean(results))


if __name__ == "__main__":
    sys.exit(main())
