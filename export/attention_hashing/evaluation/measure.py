"""All figures of an evaluation report, computed from encoded images, ready for JSON."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from attention_hashing.evaluation.code_statistics import code_statistics
from attention_hashing.evaluation.distance_counts import Levels, unordered
from attention_hashing.evaluation.metrics import (
    Bounds,
    average_precision,
    by_radius,
    mean_by_cosine,
    precision_among_first,
)
from attention_hashing.evaluation.split import Split
from bitgaze import Encoded

# N of P@N, as is usual in the literature.
_FIRST = (1, 10, 100)
RADIUS = 2


def measure(encoded: Encoded, split: Split, ranking: Levels, top: int | None) -> dict[str, Any]:
    """Compute all figures.

    Args:
        encoded: the model's output for `split.paths`.
        split: the images.
        ranking: of the queries in the database.
        top: R of AP@R, and an additional N of P@N; None for the whole ranking.

    Returns:
        Figures by name: numbers, lists by radius or distance, and nested dictionaries.
    """
    has, ball, found = split.labels, by_radius(ranking), of_ranking(ranking, top)
    random = average_precision(unordered(ranking), top).expected
    return {
        "set": {
            "queries": len(split.queries),
            "database": len(split.database),
            "classes": len(split.classes),
            "labels_per_image": float(has.sum(1).mean()) if has.ndim == 2 else 1.0,
            "queries_without_a_relevant_image": int((ranking.relevant.sum(1) == 0).sum()),
            "queries_with_a_copy_in_the_database": split.shared(),
        },
        "average_precision": {
            "top": top,
            **found["average_precision"],
            "cosine_of_hash_values": mean_by_cosine(
                encoded.hashes, split.labels, split.queries, split.database, top
            ),
            "random_order": float(random.mean()),
        },
        "precision_among_first": found["precision_among_first"],
        f"within_radius_{RADIUS}": {
            name: _number(values[RADIUS]) for name, values in ball._asdict().items()
        },
        "by_radius": {
            name: [_number(value) for value in values] for name, values in ball._asdict().items()
        },
        "pairs_by_distance": {
            "matching": ranking.relevant.sum(0).tolist(),
            "other": (ranking.items - ranking.relevant).sum(0).tolist(),
        },
        "codes_of_the_database": {
            **code_statistics(encoded.codes[split.database])._asdict(),
            "unstable": float(1 - encoded.stable[split.database].mean()),
        },
    }


def of_ranking(ranking: Levels, top: int | None) -> dict[str, Any]:
    """The figures that need no code: average precision, and precision among the first.

    Args:
        ranking: of queries in a database.
        top: as for `measure`.
    """
    size = int(ranking.items[0].sum())
    firsts = {n for n in (*_FIRST, top) if n is not None and n <= size}
    return {
        "average_precision": {
            "over_possible": _means(average_precision(ranking, top)),
            "over_found": _means(average_precision(ranking, top, "found")),
        },
        "precision_among_first": {
            str(n): _means(precision_among_first(ranking, n)) for n in sorted(firsts)
        },
    }


def _means(bounds: Bounds) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in bounds._asdict().items()}


def _number(value: NDArray[np.float64]) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)
