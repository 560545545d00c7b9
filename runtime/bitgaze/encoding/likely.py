"""Likely classes: which classes an image and its looks probably show, in a few bytes.

A block of bytes for each image:
    1 byte    number of views, 1 to 8: the whole image, then its looks
    1 byte    for each view: how many classes follow for it
    3 bytes   for each class, view by view: number (uint16, little-endian) and level (uint8)
A level l stands for the probability 2 ** (-l / 16). Classes below 2 ** -10 are left out.

Whether an image shows what a word means is judged by the classes of the word, and by what these are
seen with: where the images of a gallery that show dogs often show leashes, a leash speaks for a
dog.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_VIEWS = 8
_STEPS = 16
_LAST_LEVEL = 10 * _STEPS
_MAX_CLASSES = 255
_MAX_IMAGES = 8192
# How far the company of a word's classes is believed, and for how many views an unknown company
# counts. Mean average precision over VOC's words rises by .017, over COCO's by .024; on the half of
# the images that the two were not chosen on by .017 and .025, and half or twice as much of either
# changes it by less than .002.
_COMPANY = 0.3
_DOUBT = 1.0
# Company is considered for this number of images, those that most probably show the word.
_MOST_CONSIDERED = 10_000
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
        is_entry = np.ones(len(content), bool)
        is_entry[-1] = False
        is_entry[firsts] = False
        is_entry[at[is_view]] = False
        entries = content[is_entry].reshape(-1, 3)
        numbers = entries[:, 0] + entries[:, 1].astype(np.uint16) * np.uint16(256)
        order = np.argsort(numbers, kind="stable")
        owners = np.repeat(np.arange(counts.size, dtype=np.uint16), counts.ravel())
        starts = np.concatenate([[0], np.cumsum(np.bincount(numbers))]).astype(np.uint32)
        return Likely(owners[order], entries[order, 2], starts, is_known)

    @cached_property
    def totals(self) -> NDArray[np.float32]:
        """Sum of the probabilities of each class: float32, (classes,)."""
        return self.seen_with(np.ones(len(self.is_known), np.float32))

    def some(self, images: NDArray[np.bool_]) -> "Likely":
        """Those of some of the images.

        Args:
            images: bool, (n,): which.
        """
        kept = np.flatnonzero(np.take(np.repeat(images, MAX_VIEWS), self.views))
        places = np.cumsum(images, dtype=np.uint16) - np.uint16(1)
        views = self.views[kept]
        views = places[views // MAX_VIEWS] * np.uint16(MAX_VIEWS) + views % MAX_VIEWS
        starts = np.searchsorted(kept, self.starts).astype(np.uint32)
        return Likely(views, self.levels[kept], starts, self.is_known[images])

    def seen_with(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sum over all views of a class's probability times that of something else in the image.

        Args:
            probabilities: float32, (n,), of the other thing.

        Returns:
            float32, (classes,).
        """
        products = probabilities[self.views // MAX_VIEWS] * _LEVELS[self.levels]
        ends = np.concatenate([[0], np.cumsum(products, dtype=np.float64)])[self.starts]
        return np.diff(ends).astype(np.float32)

    def probabilities(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The probability that each view shows one of some classes: float32, (n, MAX_VIEWS).

        Args:
            weights: float32, one for each class that there is: 1 if it is one of them, less if it
                only speaks for them, 0 if not.
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


def shown(chunks: Sequence[Likely], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability that each image shows what some classes mean.

    At first, that at least one view shows one of the classes. Another class c then speaks for them
    by the share of what shows c that shows them, sum p(c) p / sum p(c), over the images considered.

    Args:
        chunks: likely classes of all images of a gallery.
        weights: float32, one for each class that there is: 1 for those that are meant, else 0.

    Returns:
        float32, (n,), in the order of the images.
    """
    found = np.concatenate([of_any_view(chunk.probabilities(weights)) for chunk in chunks])
    is_considered = np.ones(len(found), bool)
    if len(found) > _MOST_CONSIDERED:
        is_considered[np.argpartition(found, -_MOST_CONSIDERED)[:-_MOST_CONSIDERED]] = False
        is_considered &= found > 0
    ends = np.cumsum([len(chunk.is_known) for chunk in chunks])[:-1]
    masks = np.split(is_considered, ends)
    considered = [chunk.some(mask) for chunk, mask in zip(chunks, masks, strict=True)]
    with_them, in_all = np.zeros((2, len(weights)), np.float32)
    for chunk, some, mask, own in zip(
        chunks, considered, masks, np.split(found, ends), strict=True
    ):
        _add(in_all, chunk.totals)
        _add(with_them, some.seen_with(own[mask]))
    company = _COMPANY * with_them / (in_all + _DOUBT)
    weights = np.maximum(weights, company)
    found[is_considered] = np.concatenate(
        [of_any_view(some.probabilities(weights)) for some in considered]
    )
    return found


def _add(sums: NDArray[np.float32], of_classes: NDArray[np.float32]) -> None:
    """Add figures of classes in place; those that the model does not have count for nothing."""
    count = min(len(sums), len(of_classes))
    sums[:count] += of_classes[:count]
