"""Labels of images, and which items are relevant to which queries."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# int64 (n,) if each image has one label; bool (n, classes) if images may have several.
Labels = NDArray[np.int64] | NDArray[np.bool_]


def is_relevant(labels_of_queries: Labels, labels: Labels) -> NDArray[np.bool_]:
    """An item is relevant to a query if they share a label.

    Args:
        labels_of_queries: q of them.
        labels: of the database, n of them, in the same form.

    Returns:
        bool, (q, n).

    Raises:
        ValueError: the two have different forms or numbers of classes.
    """
    if labels_of_queries.shape[1:] != labels.shape[1:]:
        raise ValueError(
            f"query labels have shape {labels_of_queries.shape}, database labels {labels.shape}; "
            "expected (q,) and (n,), or (q, classes) and (n, classes)"
        )
    found: NDArray[np.bool_]
    if labels.ndim == 1:
        found = labels_of_queries[:, None] == labels
    else:  # float32 has the fast matrix product
        found = labels_of_queries.astype(np.float32) @ labels.astype(np.float32).T > 0
    return found


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Names of classes, sorted; by number if all are numbers."""
    names = list(names)
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))


def of_names(names: Sequence[tuple[str, ...]]) -> tuple[Labels, tuple[str, ...]]:
    """Labels of images, from the names of each image's classes, and all classes in order."""
    classes = in_order({name for several in names for name in several})
    position = {name: place for place, name in enumerate(classes)}
    if all(len(several) == 1 for several in names):
        return np.array([position[name] for (name,) in names], np.int64), classes
    one_hot = np.zeros((len(names), len(classes)), bool)
    for row, several in enumerate(names):
        one_hot[row, [position[name] for name in several]] = True
    return one_hot, classes
