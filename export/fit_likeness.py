"""Fit the constants of `bitgaze.encoding.likeness` to altered copies and images that look alike.

    python export/fit_likeness.py CATALOGUES...

Searches with copies of images of each catalogue (a folder of different images), among the images of
that catalogue and among those of all, with the original and without; and with each image itself
among the others of its catalogue. Generated screens are catalogues too. Maximises the likelihood of
what is true of the best hits of copies, within limits: exact copies are believed among ten million,
and of each catalogue without copies at most 1 % of the best hits are called a copy, and 5 % perhaps
one. Prints the constants, of which likeness.py has rounder and more careful ones. Check those on
other images with copies_table.py.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attention_hashing.data.screens import KINDS, screens
from attention_hashing.experiments.copies import altered, coded, joined, owners, some
from attention_hashing.experiments.likeness import Constants, Trial, fit, loss, said, trials
from bitgaze import BitgazeError, Encoder
from bitgaze.encoding.likeness import same_image

_SCREENS, _COPIED_SCREENS = 100, 20
# Largest share of best hits, in a catalogue without copies, of which so much may be said; one hit
# is always allowed.
_LIMITS = {0.5: 0.05, 0.9: 0.01}


def main() -> int:
    """Parse arguments, code everything, fit, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("catalogues", type=Path, nargs="+")
    parser.add_argument("--most", type=int, default=1500, help="images of each folder")
    parser.add_argument("--copied", type=int, default=60, help="of these, images to make copies of")
    parser.add_argument("--trials", type=int, default=5000, help="searches with copies to fit to")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    encoder = Encoder()
    try:
        found, others = _trials(arguments, encoder)
    except (BitgazeError, ValueError) as error:
        print(f"fit_likeness.py: {error}", file=sys.stderr)
        return 2
    bits = encoder.bits
    rng = np.random.default_rng(arguments.seed)
    chosen = rng.permutation(len(found))[: arguments.trials]
    found = [found[row] for row in chosen]

    def objective(constants: Constants) -> float:
        if not _is_valid(constants, bits) or any(
            not _is_within_limits(said(catalogue, bits, constants)[0]) for catalogue in others
        ):
            return np.inf
        return loss(found, bits, constants)

    best, least = fit(Constants(), objective)
    print(
        f"{len(found)} searches with copies, {len(others)} catalogues: {least:.5f}", best, sep="\n"
    )
    return 0


def _trials(
    arguments: argparse.Namespace, encoder: Encoder
) -> tuple[list[Trial], list[list[Trial]]]:
    """Searches with copies, and those in each catalogue without any."""
    images = [(some(folder, arguments.most), arguments.copied) for folder in arguments.catalogues]
    count = len(images)
    images += [(screens(kind, _SCREENS, arguments.seed), _COPIED_SCREENS) for kind in KINDS]
    galleries = [coded(found, encoder) for found, _ in images]
    everything = joined(galleries[:count])
    found, others, start = [], [], 0
    for place, (gallery, (all_images, copied)) in enumerate(zip(galleries, images, strict=True)):
        chosen = np.unique(np.linspace(0, len(all_images) - 1, copied).astype(int))
        versions = altered([all_images[row] for row in chosen], encoder)
        own = chosen[owners(len(chosen))]
        found += trials(versions, own, gallery, with_original=(True, False))
        if place < count:
            found += trials(versions, start + own, everything, with_original=(True, False))
        start += len(all_images)
        itself = np.arange(len(all_images))
        others.append(trials(gallery, itself, gallery, with_original=(False,)))
    return found, others


def _is_valid(constants: Constants, bits: int) -> bool:
    """Whether exact copies are believed among ten million, and equal meanings alone never are."""
    law, evidence = constants
    if not (0 < law.related < 0.2 and law.settled < 1 and law.nearer > 5 and evidence.limit < 8):
        return False
    exact = same_image(0, bits, bits, 10_000_000, evidence=evidence, law=law)
    alike = same_image(100, 0, bits, 100, evidence=evidence, law=law)
    return bool(exact >= 0.999 and alike < 0.5)


def _is_within_limits(chances: NDArray[np.float64]) -> bool:
    """Whether what is said of the best hits of a catalogue without copies is within the limits."""
    number = len(chances)
    return all(
        np.count_nonzero(chances >= least) <= max(1, share * number)
        for least, share in _LIMITS.items()
    )


if __name__ == "__main__":
    sys.exit(main())
