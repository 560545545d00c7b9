"""Search by words: items whose likely classes are what the words mean."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitgaze.arguments import hit_count
from bitgaze.encoding.images import Box
from bitgaze.encoding.likely import Likely, of_any_view, shown
from bitgaze.encoding.words import Meaning, Vocabulary
from bitgaze.errors import WordError
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.store import Store

_UNKNOWN_CLASSES = (
    "its images have no likely classes: they are from an older version, or your own codes; index "
    "them into a new gallery to search by words"
)


@dataclass(frozen=True)
class WordHit:
    """One result of a search by words: an item, and how probable it is that it shows them.

    Attributes:
        key: the item's key.
        probability: that the image or one of its looks shows what the words mean, in [0, 1],
            according to the model and to what else such images of the gallery show.
        metadata: the item's metadata.
        path: path of the item's file, ready for `open`; None for an item added by hand.
        box: left, top, right, bottom of the look that shows it best, in [0, 1] of the upright
            image; None if that is the whole image.
    """

    key: str
    probability: float
    metadata: dict[str, Any]
    path: str | None
    box: Box | None = None


def search_words(
    store: Store,
    vocabulary: Vocabulary,
    words: str,
    k: int,
    conditions: tuple[Condition, ...],
    least: float,
) -> list[WordHit]:
    """The items that most probably show what words mean; see `Gallery.search_words`.

    Args:
        store: the gallery's file; outside `reading`.
        vocabulary: of the gallery's model.
        words: as for `Vocabulary.meanings`.
        k: maximum number of hits.
        conditions: an item must meet all of them.
        least: the lowest probability of a hit.
    """
    hit_count(k)
    if not 0 <= least <= 1:
        raise ValueError(f"least is {least}, expected 0 to 1")
    meanings = vocabulary.meanings(words)
    store.read_likely()
    with store.reading():
        return _search(store, meanings, k, conditions, least)


def _search(
    store: Store,
    meanings: list[list[Meaning]],
    k: int,
    conditions: tuple[Condition, ...],
    least: float,
) -> list[WordHit]:
    chunks = list(store.likely())
    if chunks and not any(chunk.is_known.any() for chunk in chunks):
        raise WordError(f"{store.path}: {_UNKNOWN_CLASSES}")
    scores = np.zeros(0, np.float32)
    if chunks:
        scores = np.max([_all_of(chunks, every) for every in meanings], axis=0)
    allowed = scores >= least
    if conditions:
        allowed &= store.allowed(conditions)
    slots = np.flatnonzero(allowed)
    if len(slots) > k:  # the k-th largest, and what equals it
        slots = slots[scores[slots] >= np.partition(scores[slots], -k)[-k]]
    slots = slots[np.argsort(-scores[slots], kind="stable")][:k]
    return [_hit(store, int(slot), float(scores[slot]), meanings) for slot in slots]


def _all_of(chunks: list[Likely], meanings: list[Meaning]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The probability that images show all of some things: float32, (n,)."""
    found = [shown(chunks, meaning.weights) for meaning in meanings]
    product: np.ndarray[Any, np.dtype[np.float32]] = np.prod(found, axis=0)
    return product


def _hit(store: Store, slot: int, score: float, meanings: list[list[Meaning]]) -> WordHit:
    item = store.item(slot)
    likely = Likely.of([item.classes])
    views = [[likely.probabilities(m.weights)[0] for m in every] for every in meanings]
    best = max(views, key=lambda every: float(np.prod(of_any_view(np.stack(every)))))
    view = int(best[0].argmax())
    box = None
    if 1 <= view <= len(item.boxes):
        left, top, right, bottom = map(float, item.boxes[view - 1])
        box = left, top, right, bottom
    return WordHit(item.key, score, item.metadata, item.path, box)
