"""Trials of searches for altered copies: what is said of the best hit, what is true, how to fit it.

A trial is a search with a copy of an image, in a gallery that holds the image or does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention_hashing.experiments.copies import HITS, Coded, distances
from bitgaze.encoding.likeness import (
    SemanticEvidence,
    StructuralLaw,
    Surroundings,
    same_image,
    surroundings,
)

# Hits that can decide: those with the nearest structure.
_DECIDING = 4


class Trial(NamedTuple):
    """One search.

    Attributes:
        structural: (k,), structural distances of the hits with the nearest structure, ascending.
        semantic: (k,), their semantic distances.
        is_copy: (k,), whether each is the original of the query.
        items: number of images in the gallery.
        around: of the query.
    """

    structural: NDArray[np.int64]
    semantic: NDArray[np.int64]
    is_copy: NDArray[np.bool_]
    items: int
    around: Surroundings


class Constants(NamedTuple):
    """What `fit` chooses."""

    law: StructuralLaw = StructuralLaw()
    evidence: SemanticEvidence = SemanticEvidence()


SHIPPED = Constants()


def trials(
    queries: Coded, own: NDArray[np.int64], gallery: Coded, *, with_original: Sequence[bool]
) -> list[Trial]:
    """Search for images in a gallery, with and without the one that each is, or is a copy of.

    Args:
        queries: both codes of q images; those without a structure are left out.
        own: (q,), which image of the gallery each one is.
        gallery: both codes of n images.
        with_original: whether the gallery holds the image; one trial each.
    """
    known = gallery.structural[:, 0].any(1)
    bits = 8 * gallery.semantic.shape[1]
    found = []
    for row, original in enumerate(own.tolist()):
        if not queries.structural[row, 0].any():
            continue
        semantic = distances(gallery.semantic, queries.semantic[row])
        structural = distances(gallery.structural[:, 0], queries.structural[row, 0])
        for has_original in with_original:
            present = known.copy()
            present[original] &= has_original
            ids = np.flatnonzero(present)
            near = ids[np.argsort(semantic[ids], kind="stable")[:HITS]]
            around = surroundings(structural[near], semantic[near], bits)
            best = ids[np.argsort(structural[ids], kind="stable")[:_DECIDING]]
            found.append(
                Trial(structural[best], semantic[best], best == original, len(ids), around)
            )
    return found


def said(
    found: Sequence[Trial], bits: int, constants: Constants = SHIPPED
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability of each trial's best hit, and whether it is the original."""
    chance, truth = np.zeros(len(found)), np.zeros(len(found), bool)
    for row, trial in enumerate(found):
        chances = _chances(trial, bits, constants)
        if len(chances):
            best = chances.argmax()
            chance[row], truth[row] = chances[best], trial.is_copy[best]
    return chance, truth


def _chances(trial: Trial, bits: int, constants: Constants) -> NDArray[np.float64]:
    return same_image(
        trial.structural,
        trial.semantic,
        bits,
        trial.items,
        trial.around,
        constants.evidence,
        constants.law,
    )


def loss(found: Sequence[Trial], bits: int, constants: Constants) -> float:
    """Mean negative logarithm of the likelihood of what is true, over the trials' best hits."""
    chance, truth = said(found, bits, constants)
    chance = np.clip(chance, 1e-6, 1 - 1e-6)
    return float(-np.log(np.where(truth, chance, 1 - chance)).mean())


def fit(
    start: Constants, objective: Callable[[Constants], float], rounds: int = 4
) -> tuple[Constants, float]:
    """Minimise by changing one constant at a time, by a factor that shrinks from round to round.

    Args:
        start: the first guess.
        objective: of constants.
        rounds: through all constants.
    """
    best, least = start, objective(start)
    names = [("law", name) for name in vars(StructuralLaw())]
    names += [("evidence", name) for name in vars(SemanticEvidence())]
    for turn in range(rounds):
        factor = 1 + 0.5 / 2**turn
        for part, name in names:
            for scale in (factor, 1 / factor):
                old = getattr(best, part)
                changed = replace(old, **{name: getattr(old, name) * scale})
                other = best._replace(**{part: changed})
                while (value := objective(other)) < least - 1e-6:
                    best, least = other, value
                    old = getattr(best, part)
                    changed = replace(old, **{name: getattr(old, name) * scale})
                    other = best._replace(**{part: changed})
    return best, least


def reliability(
    chance: NDArray[np.float64], truth: NDArray[np.bool_], least: float = 0.5
) -> list[tuple[float, int, float, float]]:
    """(lower edge, number, said, true) of each tenth from `least` on that holds any."""
    rows = []
    for edge in np.arange(round(10 * least), 10) / 10:
        inside = (chance >= edge) & (chance < edge + 0.1 + (edge > 0.85))
        if inside.any():
            rows.append(
                (float(edge), int(inside.sum()), chance[inside].mean(), truth[inside].mean())
            )
    return rows
