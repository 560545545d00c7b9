"""Searches for altered copies: what is said of the best hit, and whether it is true."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from attention_hashing.experiments.copies import Coded, chances


def searches(
    queries: Coded,
    own: NDArray[np.int64],
    gallery: Coded,
    items: int | None = None,
    rates: Sequence[float] = (),
    *,
    with_original: bool,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Search for images in a gallery, with or without the one that each is a copy of.

    Args:
        queries: both codes of q images; those without a structure are left out.
        own: (q, m), which images of the gallery each one is a copy of; one may be repeated.
        gallery: both codes of n images.
        items: to be assumed in the gallery, as for `chances`.
        rates: as for `chances`.
        with_original: whether the gallery holds the images themselves.

    Returns:
        The highest probability that is said of a hit, and whether this hit is an original; one
        each of the queries that have a structure.
    """
    chance, truth = [], []
    for row, originals in enumerate(own.tolist()):
        query = Coded(*(values[row : row + 1] for values in queries))
        if not query.structural[0, 0].any():
            continue
        present = gallery
        if not with_original:
            structural = gallery.structural[:, :1].copy()
            structural[originals] = 0
            present = gallery._replace(structural=structural)
        said = np.nan_to_num(chances(query, present, items, rates)[0])
        best = int(said.argmax())
        chance.append(said[best])
        truth.append(with_original and best in originals)
    return np.array(chance), np.array(truth, bool)


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
