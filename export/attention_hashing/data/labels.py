"""Labels of images, and which items they make relevant to which queries."""

import numpy as np
from numpy.typing import NDArray

# int64 (n,), one label each; or bool (n, classes), any number each.
Labels = NDArray[np.int64] | NDArray[np.bool_]


def is_relevant(labels_of_queries: Labels, labels: Labels) -> NDArray[np.bool_]:
    """Which items are relevant to which queries: those that share a label.

    Args:
        labels_of_queries: int64 (q,), one label each; or bool (q, classes), any number each.
        labels: the same of the database, n of them.

    Returns:
        (q, n).

    Raises:
        ValueError: one has one label each and the other several, or another number of classes.
    """
    if labels_of_queries.shape[1:] != labels.shape[1:]:
        raise ValueError(
            f"labels of queries have shape {labels_of_queries.shape}, those of the database "
            f"{labels.shape}: expected (q,) and (n,), or (q, classes) and (n, classes)"
        )
    found: NDArray[np.bool_]
    if labels.ndim == 1:
        found = labels_of_queries[:, None] == labels
    else:  # in float32, whose product is the fast one
        found = labels_of_queries.astype(np.float32) @ labels.astype(np.float32).T > 0
    return found
