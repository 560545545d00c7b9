"""Search: nearest neighbours of a query -> ranked hits."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import check_array, hit_count, radius_within
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import (
    Box,
    ImageFile,
    Region,
    Source,
    content_of,
    is_open_file,
)
from bitgaze.encoding.likeness import MOST_MOVED
from bitgaze.encoding.panels import panels
from bitgaze.errors import FingerprintMismatch, ImageError
from bitgaze.gallery.adaptation import adapted
from bitgaze.gallery.distances import (
    asymmetric_scores,
    asymmetric_view_scores,
    code_distances,
    view_distances,
)
from bitgaze.gallery.filters import Condition
from bitgaze.gallery.hits import Hit, has_structure, make_hits
from bitgaze.gallery.items import Item, reason_unusable
from bitgaze.gallery.query import Query
from bitgaze.gallery.store import Store
from bitgaze.hamming import HammingIndex
from bitgaze.views import ViewIndex

Ranking = Literal["hamming", "asymmetric"]

# An asymmetric ranking scores this many of the nearest codes per hit, and at least 100. On CIFAR-10
# and Fashion-MNIST with k = 10, scoring 100 of 4,100 items reached the precision of scoring all of
# them to .002, and 30 to .005.
_CANDIDATES_PER_HIT, _MIN_CANDIDATES = 10, 100
# Nearest items that show what is usual around a query.
AROUND = 50
# A search that folds copies looks at this many hits for each that it returns.
_UNFOLDED = 4


@dataclass(frozen=True)
class SearchParams:
    """What a search returns: how many hits, within which distance, of which items.

    Attributes:
        k: maximum number of hits, at least 1.
        radius: maximum Hamming distance, at least 0; None for no limit.
        conditions: an item must meet all of them.
        fold: leave out hits that are copies of a nearer one.

    Raises:
        TypeError: k or radius is not an integer.
        ValueError: k or radius is out of range.
    """

    k: int
    radius: int | None
    conditions: tuple[Condition, ...]
    fold: bool = False

    def __post_init__(self) -> None:
        hit_count(self.k)
        if self.radius is not None:
            radius_within(self.radius)


def search(
    store: Store,
    encoder: Callable[[], Encoder],
    query: Source | Query,
    params: SearchParams,
    *,
    ranking: Ranking,
    exclude_self: bool,
    region: Box | None = None,
) -> list[Hit]:
    """The hits of an image or a key; see `Gallery.search`.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model; called only to encode an image.
        query: an image, the key of an item, or what `Gallery.query` returned.
        params: which hits to return.
        ranking: "hamming" or "asymmetric".
        exclude_self: leave out the item with the key `query`, or made from the file `query`.
        region: search for this part of the image.
    """
    if ranking not in get_args(Ranking):
        raise ValueError(f"ranking is {ranking!r}, expected one of {get_args(Ranking)}")
    if isinstance(query, Query):
        if exclude_self:
            raise ValueError("exclude_self requires a key or a path, got a Query")
        if region is not None:
            raise ValueError("pass the region to Gallery.query: a Query is encoded already")
        with store.reading():
            check_adaptation(store, query)
            hits = _find(store, query, params, ranking, None)
        return _with_panels(store, encoder, query, hits, params, None)
    if isinstance(query, str):
        with store.reading():  # one snapshot, so that code and gallery have one adaptation
            slot = store.find(query)
            if slot is not None and region is None:
                found = item_query(store, store.item(slot))
                return _find(store, found, params, ranking, slot if exclude_self else None)
            item = None if slot is None else store.item(slot)
        if item is not None:
            encoded, part = _encode_part(encoder(), item, region)
            with store.reading():
                exclude_slot = store.find(query) if exclude_self else None
                found = image_query(store, encoder(), part, encoded)
                return _find(store, found, params, ranking, exclude_slot)
    if exclude_self and not isinstance(query, str | os.PathLike):
        raise ValueError(
            f"exclude_self requires a key or a path, got {type(query).__name__}: bytes and arrays "
            "do not identify an item"
        )
    image = as_source(query, region)
    encoded = encode_query(store, encoder(), image)
    with store.reading():
        path = query if exclude_self and isinstance(query, str | os.PathLike) else None
        exclude_slot = None if path is None else _slot_of_file(store, path)
        found = image_query(store, encoder(), image, encoded)
        hits = _find(store, found, params, ranking, exclude_slot)
        if path is not None and exclude_slot is None:
            exclude_slot = _slot_of_same_file(store, path, hits)
            if exclude_slot is not None:
                hits = _find(store, found, params, ranking, exclude_slot)
    return _with_panels(store, encoder, found, hits, params, exclude_slot)


def as_source(image: Source, region: Box | None = None) -> Source:
    """An image to search for, which can be read again; of a path, the digest is known too."""
    source = ImageFile(image) if isinstance(image, str | os.PathLike) else image
    if is_open_file(source):
        source = content_of(source)
    # A region refuses a region.
    return source if region is None else Region(source, region)  # type: ignore[arg-type]


def item_query(store: Store, item: Item) -> Query:
    """The query for an item of the gallery; inside `reading`."""
    return Query.of_item(item, store.info["looks"], _adaptation(store))


def image_query(store: Store, encoder: Encoder, image: Source, encoded: Encoded) -> Query:
    """The query for an image that the model has encoded; inside `reading`."""
    encoded = adapted(encoded, store.info["adaptation"], encoder)
    return Query.of_image(image, encoded, _adaptation(store))


def _adaptation(store: Store) -> str | None:
    adaptation = store.info["adaptation"]
    return None if adaptation is None else adaptation.fingerprint


def check_adaptation(store: Store, query: Query) -> None:
    """Refuse a query whose codes are not comparable with the gallery's; inside `reading`.

    Raises:
        ValueError: they have another length.
        FingerprintMismatch: they are of another adaptation.
    """
    if query.views.shape[1] * 8 != store.index.bits:
        raise ValueError(
            f"the query's codes have {query.views.shape[1] * 8} bits, those of this gallery have "
            f"{store.index.bits}"
        )
    if query.adaptation != _adaptation(store):
        raise FingerprintMismatch(
            f"{store.path}: has been adapted since the query was encoded, or the query is of "
            "another gallery; make it again with Gallery.query"
        )


def _encode_part(encoder: Encoder, item: Item, region: Box | None) -> tuple[Encoded, Region]:
    """Encode a part of an item's image, which is read from its file."""
    if item.file is None or item.path is None:
        raise ImageError(
            f"{item.key!r} was added by hand, without a file: pass the image to search for a "
            "region of it"
        )
    file = ImageFile(item.path, is_tolerant=True)
    assert region is not None
    part = Region(file, region)
    encoded = encoder.encode([part])
    reason = reason_unusable(item.file, file, encoded.errors.get(0))
    if reason is not None:
        raise ImageError(f"{item.path}: {reason}; sync its folder, or pass the image")
    return encoded, part


def encode_query(store: Store, encoder: Encoder, image: Source) -> Encoded:
    """Encode an image for a search, with the gallery's number of looks; a region without.

    Raises:
        ImageError: the image cannot be read.
    """
    with store.reading():
        looks = 0 if isinstance(image, Region) else store.info["looks"]
    return encode_one(lambda sources: encoder.encode(sources, looks=looks), image)


def encode_one(encode: Callable[[list[Source]], Encoded], image: Source) -> Encoded:
    """Encode a single image.

    Raises:
        ImageError: the image cannot be read.
    """
    encoded = encode([image])
    if encoded.errors:
        raise encoded.errors[0]
    return encoded


def _slot_of_file(store: Store, path: str | os.PathLike[str]) -> int | None:
    """The slot of the item that sync made from a file, or None."""
    # Sync keeps the names of links; the path may also lead to the file through other links.
    for absolute in (os.path.abspath, os.path.realpath):
        item = store.item_of_file(absolute(os.fsencode(path)))
        if item is not None:
            return store.slot(item.key)
    return None


def _slot_of_same_file(
    store: Store, path: str | os.PathLike[str], hits: Sequence[Hit]
) -> int | None:
    """The slot of a hit whose path leads to the file by other links, or None."""
    for found in hits:
        try:
            if found.path is not None and Path(found.path).samefile(path):
                return store.slot(found.key)
        except OSError:
            continue  # its file is gone
    return None


class Scope(NamedTuple):
    """Which items may be found.

    Attributes:
        allowed: by slot, bool, (n,); None for all.
        exclude_slot: slot to leave out, or None.
    """

    allowed: NDArray[np.bool_] | None = None
    exclude_slot: int | None = None

    @classmethod
    def of(
        cls, store: Store, conditions: Sequence[Condition], exclude_slot: int | None = None
    ) -> "Scope":
        """The items that meet conditions; inside `reading`."""
        return cls(store.allowed(conditions) if conditions else None, exclude_slot)

    def excluded(self, queries: int) -> NDArray[np.int64] | None:
        """`exclude` of an index's search."""
        return None if self.exclude_slot is None else np.full(queries, self.exclude_slot)


def _find(
    store: Store,
    query: Query,
    params: SearchParams,
    ranking: Ranking,
    exclude_slot: int | None,
) -> list[Hit]:
    """The k best hits of one query: copies of it first; then by the ranking, distance, slot."""
    k = kept = _UNFOLDED * params.k if params.fold else params.k
    scope = Scope.of(store, params.conditions, exclude_slot)
    slots, distances, around = _nearest_to(store, query, k, params.radius, ranking, scope)
    near_copies = np.empty(0, np.int64)
    if has_structure(store, query):
        kept = max(k, AROUND)
        near_copies = alike(store, query, kept, scope)
        added = np.setdiff1d(near_copies, slots)
        beyond = distances_to(store, query, added)
        is_within = beyond <= (store.index.bits if params.radius is None else params.radius)
        slots = np.concatenate([slots, added[is_within]])
        distances = np.concatenate([distances, beyond[is_within]])
    keys: tuple[NDArray[Any], ...] = slots, distances
    if ranking == "asymmetric":
        keys = *keys, _scores(store, query, slots)
    order = np.lexsort(keys)
    is_kept = np.isin(slots[order], near_copies)
    is_kept[:kept] = True
    best = order[is_kept]
    hits = make_hits(store, query, slots[best], distances[best], around, k, fold=params.fold)
    return hits[: params.k]


def _nearest_to(
    store: Store,
    query: Query,
    k: int,
    radius: int | None,
    ranking: Ranking,
    scope: Scope,
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Slots and distances of what a ranking chooses from, and slots of what is around the query.

    With structural codes at least the 50 nearest within the radius: any may be a part of the query.
    """
    count, is_compared = k, has_structure(store, query)
    if ranking == "asymmetric":
        if radius is not None:
            _, distances, slots = within(store, query.views[None], radius, None, scope)
            _, _, around = within(store, query.views[None], None, AROUND, scope)
            return slots, distances, around
        count = max(_MIN_CANDIDATES, _CANDIDATES_PER_HIT * k)
    # What is usual around the query does not end at the radius.
    reach, most = (None, max(count, AROUND)) if is_compared else (radius, count)
    _, distances, slots = within(store, query.views[None], reach, most, scope)
    end = len(slots) if radius is None else np.searchsorted(distances, radius, side="right")
    return slots[:end], distances[:end], slots[:AROUND]


def _scores(store: Store, query: Query, slots: NDArray[np.int64]) -> NDArray[np.float64]:
    """Asymmetric scores of the items in some slots."""
    if query.values is None:
        raise ValueError(
            "ranking 'asymmetric' requires hash values, and a gallery stores only codes: pass the "
            "image, not a key, or use ranking 'hamming'"
        )
    if store.views is None:
        return asymmetric_scores(query.values[0], store.index[slots])
    return asymmetric_view_scores(query.values, store.views[slots])


def alike(store: Store, query: Query, count: int, scope: Scope) -> NDArray[np.int64]:
    """Slots of the items that may be copies by their structural codes, the `count` nearest.

    Exact: all codes are compared, 0.7 ms for a million on one core.

    Args:
        store: the gallery's file; inside `reading`, if `has_structure`.
        query: the query.
        count: maximum number.
        scope: which items may be found.
    """
    assert store.structure is not None
    assert query.structure is not None
    _, _, slots = store.structure.range_search(
        query.structure[None],
        MOST_MOVED,
        k=count,
        filter=scope.allowed,
        exclude=scope.excluded(1),
    )
    return slots


def distances_to(store: Store, query: Query, slots: NDArray[np.int64]) -> NDArray[Any]:
    """Distances of the items in some slots, as a search of them would find: in bits."""
    if store.views is not None:
        unit = store.views.unit(len(query.views))  # exactly as the index rounds
        return np.rint(view_distances(query.views[None], store.views[slots]) * unit) / unit
    return code_distances(query.views[0], store.index[slots]).astype(np.int32)


def _with_panels(
    store: Store,
    encoder: Callable[[], Encoder],
    query: Query,
    hits: list[Hit],
    params: SearchParams,
    exclude_slot: int | None,
) -> list[Hit]:
    """Hits, and before them the items that an image contains: in a screenshot, in a collage.

    Asked only of an image that was encoded for this search, and if none of the hits is a copy.

    Args:
        store: the gallery's file; not inside `reading`.
        encoder: returns the gallery's model.
        query: as it was searched for.
        hits: that were found.
        params: which hits to return.
        exclude_slot: slot to leave out, or None.
    """
    image = query.image
    if query.values is None or image is None or isinstance(image, Region):
        return hits
    with store.reading():
        is_known = has_structure(store, query)
    if not is_known or any(hit.is_copy for hit in hits):
        return hits
    found: dict[str, Hit] = {}
    try:
        for panel in panels(image):
            encoded = encode_query(store, encoder(), panel)
            with store.reading():
                part = image_query(store, encoder(), panel, encoded)
                for hit in _find(store, part, params, "hamming", exclude_slot):
                    if hit.is_copy:
                        found.setdefault(hit.key, replace(hit, query_box=panel.box))
    except ImageError:  # its file has changed since
        return hits
    copies = sorted(found.values(), key=lambda hit: hit.distance)
    return [*copies, *(hit for hit in hits if hit.key not in found)][: params.k]


def nearest(store: Store, codes: NDArray[np.uint8], params: SearchParams) -> list[list[Hit]]:
    """The hits of each of many codes, by ascending distance; ties by slot.

    Args:
        store: the gallery's file; inside `reading`.
        codes: uint8, (q, bits // 8); or (q, views, bits // 8), of whole images and their looks.
        params: which hits to return.
    """
    check_array(codes, "codes")
    if codes.ndim not in (2, 3) or codes.shape[-1] != store.index.bits // 8:
        width = store.index.bits // 8
        raise ValueError(
            f"codes have shape {codes.shape}, but those of this gallery have {width} bytes each: "
            f"expected (q, {width}) or (q, views, {width})"
        )
    views = codes if codes.ndim == 3 else codes[:, None]
    scope = Scope.of(store, params.conditions)
    lims, distances, slots = within(store, views, params.radius, params.k, scope)
    return [
        make_hits(
            store,
            Query(view, (None,) * len(view)),
            slots[start:end],
            distances[start:end],
            slots[start:end],
        )
        for view, (start, end) in zip(views, pairwise(lims.tolist()), strict=True)
    ]


def compare(store: Store, query: Query, slot: int) -> Hit:
    """The item in a slot as a hit, wherever it would rank.

    Args:
        store: the gallery's file; inside `reading`.
        query: the query.
        slot: of the item.
    """
    _, _, around = within(store, query.views[None], None, AROUND, Scope())
    slots = np.array([slot])
    return make_hits(store, query, slots, distances_to(store, query, slots), around)[0]


def within(
    store: Store,
    views: NDArray[np.uint8],
    radius: int | None,
    count: int | None,
    scope: Scope,
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """The `count` nearest (None: all) within the radius, as `HammingIndex.range_search`.

    Args:
        store: the gallery's file; inside `reading`.
        views: uint8, (q, views, bits // 8).
        radius: in bits; None for no limit.
        count: maximum number of results of each query.
        scope: which items may be found.

    Returns:
        lims, distances in bits (float64 if items have looks, else int32), and slots.
    """
    index = store.index if store.views is None else store.views
    return within_bits(index, views, radius, count, scope.allowed, scope.excluded(len(views)))


def within_bits(
    index: HammingIndex | ViewIndex,
    views: NDArray[np.uint8],
    radius: int | None,
    count: int | None,
    filter: NDArray[np.bool_] | NDArray[np.uint8] | None,
    exclude: NDArray[np.int64] | None,
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """`range_search` of either index, by a radius in bits and to distances in bits.

    Args:
        index: of items with one code each, or with several.
        views: uint8, (q, views, bits // 8).
        radius: in bits; None for no limit.
        count: maximum number of results of each query; None for all.
        filter: as for `HammingIndex.range_search`.
        exclude: as for `HammingIndex.range_search`.

    Returns:
        As `within`.

    Raises:
        ValueError: queries have several views, and items one code; or as `range_search`.
    """
    radius = index.bits if radius is None else min(radius, index.bits)
    if isinstance(index, ViewIndex):
        views = np.ascontiguousarray(views)
        unit = index.unit(views.shape[1])
        lims, sums, slots = index.range_search(
            views, radius * unit, k=count, filter=filter, exclude=exclude
        )
        return lims, sums / unit, slots
    if views.shape[1] != 1:
        raise ValueError(
            f"a query has {views.shape[1]} views, but the items of this gallery have one code "
            "each: pass codes of shape (q, bits // 8)"
        )
    codes = np.ascontiguousarray(views[:, 0])
    return index.range_search(codes, radius, k=count, filter=filter, exclude=exclude)
