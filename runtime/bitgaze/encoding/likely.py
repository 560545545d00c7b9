"""Likely classes: which classes an image and its looks probably show, in a few bytes.

A block of bytes for each image:
    1 byte    number of views, 1 to 8: the whole image, then its looks
    1 byte    for each view: how many classes follow for it
    3 bytes   for each class, view by view: number (uint16, little-endian) and level (uint8)
A level l stands for the probability 2 ** (-l / 16). Classes below 2 ** -10 are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_VIEWS = 8
_STEPS = 16
_LAST_LEVEL = 10 * _STEPS
_MAX_CLASSES = 255
_MAX_IMAGES = 8192
_LEVELS = (2.0 ** (-np.arange(256) / _STEPS)).astype(np.float32)


def pack(views: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]]) -> bytes:
    """Pack likely classes.

    Args:
        views: numbers, 0 to 65535, and probabilities of classes, for the image and each look; at
            most 8. Of each view, the first 255 classes that are likely enough are kept.
    """
    entries, counts = [], []
    for numbers, probabilities in views:
        with np.errstate(divide="ignore"):
            levels = np.rint(-_STEPS * np.log2(np.asarray(probabilities, np.float64)))
        kept = np.flatnonzero(levels <= _LAST_LEVEL)[:_MAX_CLASSES]
        found = np.empty((len(kept), 3), np.uint8)
        found[:, :2] = numbers[kept].astype("<u2").view(np.uint8).reshape(-1, 2)
        found[:, 2] = np.maximum(levels[kept], 0)
        counts.append(len(kept))
        entries.append(found.tobytes())
    return bytes([len(counts), *counts]) + b"".join(entries)


@dataclass(frozen=True, eq=False)
class Likely:
    """Likely classes of n images, at most 8,192, by class: few of them matter to a search.

    Attributes:
        views: uint16, (e,): image * MAX_VIEWS + view, by class, then image and view.
        levels: uint8, (e,), of the probabilities.
        starts: uint32, (classes + 1,): where each class begins, and the end.
        is_known: bool, (n,): of which images likely classes are known.
    """

    views: NDArray[np.uint16]
    levels: NDArray[np.uint8]
    starts: NDArray[np.uint32]
    is_known: NDArray[np.bool_]

    @staticmethod
    def of(blocks: Sequence[bytes | None]) -> "Likely":
        """Unpack the blocks of some images; None if not known.

        Raises:
            ValueError: a block is damaged, or there are more than 8,192.
        """
        if len(blocks) > _MAX_IMAGES:
            raise ValueError(f"{len(blocks)} images, expected at most {_MAX_IMAGES}")
        lengths = np.array([len(block or b"") for block in blocks], np.int64)
        content = np.frombuffer(b"".join(filter(None, blocks)) + b"\0", np.uint8)
        is_known = lengths > 0
        firsts = np.cumsum(lengths) - lengths
        views = np.where(is_known, content[firsts], 0).astype(np.int64)
        if ((views > MAX_VIEWS) | (is_known & ((views == 0) | (lengths < 1 + views)))).any():
            raise ValueError("likely classes have an impossible number of views")
        places = np.arange(MAX_VIEWS)
        is_view = places < views[:, None]
        at = np.where(is_view, firsts[:, None] + 1 + places, 0)
        counts = np.where(is_view, content[at], 0).astype(np.int64)
        totals = counts.sum(axis=1)
        if (np.where(is_known, 1 + views + 3 * totals, 0) != lengths).any():
            raise ValueError("likely classes have another length than they say")
        before = np.cumsum(totals) - totals
        entries = np.repeat(firsts + 1 + views - 3 * before, totals)
        entries += 3 * np.arange(len(entries))
        numbers = content[entries] + content[entries + 1].astype(np.uint16) * np.uint16(256)
        order = np.argsort(numbers, kind="stable")
        owners = np.repeat(np.arange(counts.size, dtype=np.uint16), counts.ravel())
        starts = np.concatenate([[0], np.cumsum(np.bincount(numbers))]).astype(np.uint32)
        return Likely(owners[order], content[entries + 2][order], starts, is_known)

    def probabilities(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability that each view shows one of some classes: float32, (n, MAX_VIEWS).

        Args:
            weights: float32, one for each class that there is: 1 if it is one of them, less if it
                only suggests them, 0 if not.
        """
        n, classes = len(self.is_known), len(self.starts) - 1
        numbers = np.flatnonzero(weights[:classes])
        firsts, ends = (self.starts[at].astype(np.int64) for at in (numbers, numbers + 1))
        lengths = ends - firsts
        found = np.repeat(firsts - np.cumsum(lengths) + lengths, lengths)
        found += np.arange(len(found))
        shares = np.repeat(weights[numbers], lengths) * _LEVELS[self.levels[found]]
        sums = np.bincount(self.views[found], shares, n * MAX_VIEWS).reshape(n, MAX_VIEWS)
        return np.minimum(sums, 1).astype(np.float32)


def of_any_view(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability that at least one view shows it, if they were independent.

    Args:
        probabilities: float32, (n, views).
    """
    found: NDArray[np.float32] = 1 - np.prod(1 - probabilities, axis=1)
    return found
