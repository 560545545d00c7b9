"""FlatGallery: the public face of a flat file, to search it where it lies."""

import os
import threading
from collections.abc import Iterable, Iterator
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import check_array, hit_count, radius_within
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import Box, Region, Source
from bitgaze.errors import FingerprintMismatch, GalleryError
from bitgaze.gallery.adaptation import Adaptation, adapted
from bitgaze.gallery.distances import nearest_pairs
from bitgaze.gallery.file_format import gallery_path
from bitgaze.gallery.flat.header import NONE, WHOLE
from bitgaze.gallery.flat.reader import FlatFile
from bitgaze.gallery.hits import Hit, same_kind
from bitgaze.gallery.info import check_model
from bitgaze.gallery.items import BOX_STEPS, Item
from bitgaze.gallery.query import Query
from bitgaze.gallery.search import as_source, encode_one, within_bits
from bitgaze.hamming import HammingIndex
from bitgaze.views import ViewIndex

Filter = NDArray[np.bool_] | NDArray[np.uint8]

_NO_LOOKS = np.empty((0, 0), np.uint8)


class _Mapped(NamedTuple):
    """A mapped file and an index over its codes."""

    file: FlatFile
    codes: HammingIndex | ViewIndex


class FlatGallery:
    """A snapshot of a gallery in a flat file, which `Gallery.export_flat` writes; read-only.

    The file is mapped into memory and searched there: opening it takes the same time for any number
    of items, and processes that have it open share its memory. Programs in C++, C and JavaScript
    read it too. Hits are those of the gallery by distance, but for `Hit.same_image` and `Hit.path`,
    which are None: structural codes and paths are not in the file, so copies do not come first.

    Only the header is checked when the file is opened, and keys, metadata and boxes when they are
    read; `verify` checks every byte. A new export under the same name replaces the file, and an
    object that has the old one open keeps it. Thread-safe, fork-safe and picklable: a pickle holds
    the file's path.

    Args:
        path: the flat file.
        encoder: the model that encodes queries; defaults to the one that comes with bitgaze, which
            is read only when needed.

    Attributes:
        path: of the file.
        bits: length of a code in bits.
        looks: how many parts of each image the file has codes of, at most; 0 for none.
        fingerprint: of the model that made the codes, 64 hex digits; None for your own codes.
        adaptation: fingerprint of the adaptation by `Gallery.adapt`; None for the model's own
            codes.
        model_name: name of the model; None for your own codes.
        calibration: what distances mean; None if it is not known.

    Raises:
        GalleryError: the file is missing, is not a flat file, or of a newer version.
        GalleryCorrupt: it is damaged, or was cut off.
        FingerprintMismatch: its codes are not from `encoder`.
    """

    def __init__(self, path: str | os.PathLike[str], *, encoder: Encoder | None = None) -> None:
        self.path = gallery_path(path)
        file = FlatFile(self.path)
        header, codes = file.header, file.section("codes")
        self.bits, self.looks = header.bits, header.views - 1
        self.fingerprint = None if header.model == NONE else header.model.hex()
        self.adaptation = None if header.adaptation == NONE else header.adaptation.hex()
        self.model_name: str | None
        self.calibration: Calibration | None
        self.model_name, self.calibration = file.info()
        self._encoder_lock = threading.Lock()
        self._encoder: Encoder | None = None
        self._transform: Adaptation | None = None
        index = (
            ViewIndex.over(codes, self.bits, header.views, header.items)
            if self.looks
            else HammingIndex.over(codes, self.bits, header.items)
        )
        self._mapped: _Mapped | None = _Mapped(file, index)
        if encoder is not None:
            self._use(encoder)

    def __repr__(self) -> str:
        if self._mapped is None:
            return f"FlatGallery({str(self.path)!r}, closed)"
        return f"FlatGallery({str(self.path)!r}, {len(self):,} items, {self.bits} bits)"

    def __len__(self) -> int:
        return self._file().header.items

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._file().find(key) is not None

    def __iter__(self) -> Iterator[str]:
        """All keys, by slot."""
        file = self._file()
        return map(file.key, range(file.header.items))

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.path, self._encoder)

    @property
    def encoder(self) -> Encoder:
        """The model that encodes queries; loads the default one if none was given.

        Raises:
            FingerprintMismatch: none was given, and the codes are not from the default one.
        """
        with self._encoder_lock:
            if self._encoder is None:
                if self.fingerprint is None:
                    raise FingerprintMismatch(
                        f"{self.path}: holds your own codes and has no model, so it cannot encode "
                        "images; use search_code and keys"
                    )
                self._use(Encoder())
            assert self._encoder is not None
            return self._encoder

    def slot(self, key: str) -> int:
        """The item's position, which is its place in a filter: 0 to n - 1.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str.
            GalleryCorrupt: the file is damaged.
        """
        if not isinstance(key, str):
            raise TypeError(f"key must be a str, got {type(key).__name__}: {key!r}")
        slot = self._file().find(key)
        if slot is None:
            raise KeyError(f"{self.path} holds no item {key!r}")
        return slot

    def get(self, key: str) -> Item:
        """The item with this key: key, metadata, codes and boxes.

        Raises:
            KeyError, TypeError, GalleryCorrupt: as for `slot`.
        """
        return self._item(self.slot(key))

    def items(self) -> Iterator[Item]:
        """All items, by slot, such as to make a filter from their metadata.

        Raises:
            GalleryCorrupt: the file is damaged.
        """
        return map(self._item, range(len(self)))

    def search(
        self,
        query: Source | Query,
        k: int = 10,
        *,
        radius: int | None = None,
        filter: Filter | None = None,
        exclude_self: bool = False,
        region: Box | None = None,
    ) -> list[Hit]:
        """Find the items nearest to an image; exact.

        Args:
            query: an image as `bitgaze.encoding.images.load` takes it, the key of an item, or what
                `query` returned. A str that is a key is taken as a key, otherwise as a path.
            k: maximum number of hits, at least 1.
            radius: maximum Hamming distance, at least 0; None for no limit.
            filter: which items may be found, by slot: bool, shape (m,), m <= n; or packed,
                `numpy.packbits(mask, bitorder="little")`. Items from slot m on are left out.
            exclude_self: leave out the item with the key `query`.
            region: search for what is in this part of the image: left, top, right, bottom, in
                [0, 1] of the upright image.

        Returns:
            Hits by ascending distance; ties by slot.

        Raises:
            ImageError: the query cannot be read.
            FingerprintMismatch: the encoder is not the model that made the codes, or the query is
                of a gallery with another adaptation.
            GalleryCorrupt: the file is damaged.
            TypeError: k or radius is not an integer, or the query is not an image.
            ValueError: k is below 1, radius below 0, the filter has another shape, `exclude_self`
                is used with a query that is no key, or `region` with one that is no image.
        """
        slot = None
        if isinstance(query, str):
            slot = self._file().find(query)
        if slot is None and exclude_self:
            raise ValueError(f"exclude_self requires the key of an item, got {query!r:.80}")
        if region is not None and (slot is not None or isinstance(query, Query)):
            raise ValueError("a region requires an image: codes do not say what is in it")
        if slot is not None:
            found = Query.of_item(self._item(slot), self.looks, self.adaptation)
        elif isinstance(query, Query):
            found = query
        else:
            found = self.query(query, region=region)
        if found.adaptation != self.adaptation:
            raise FingerprintMismatch(
                f"{self.path}: the query is of another gallery, or of another adaptation; make it "
                "with FlatGallery.query"
            )
        exclude = np.array([slot]) if exclude_self else None
        return self._hits([found], found.views[None], k, radius, filter, exclude)[0]

    def query(self, image: Source, *, region: Box | None = None) -> Query:
        """Encode an image for several searches, such as with other filters or more hits.

        Args:
            image: as `bitgaze.encoding.images.load` takes it.
            region: as for `search`.

        Raises:
            ImageError: the image cannot be read.
            FingerprintMismatch: the encoder is not the model that made the codes.
            TypeError, ValueError: the region is not a box in [0, 1].
        """
        source = as_source(image, region)
        looks = 0 if isinstance(source, Region) else self.looks
        encoder = self.encoder
        encoded = encode_one(lambda sources: encoder.encode(sources, looks=looks), source)
        return Query.of_image(source, self._adapted(encoded), self.adaptation)

    def encode(self, sources: Iterable[Source]) -> Encoded:
        """Encode images to codes that can be compared with those of the file.

        Args:
            sources: images as `bitgaze.encoding.images.load` takes them.

        Returns:
            One row per image, in order; unreadable images are listed in `errors`.

        Raises:
            FingerprintMismatch: the encoder is not the model that made the codes.
            TypeError: a single image instead of several, or a source that is not an image.
        """
        return self._adapted(self.encoder.encode(sources, looks=self.looks))

    def search_code(
        self,
        code: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        filter: Filter | None = None,
    ) -> list[Hit]:
        """Find the items nearest to a code; like `search`.

        Args:
            code: uint8, (bits // 8,), from `encode`, or your own; or (1 + looks, bits // 8), all
                views of an image: `encode([image]).views[0]`.
            k: maximum number of hits, at least 1.
            radius: as for `search`.
            filter: as for `search`.

        Raises:
            TypeError: the code is not a uint8 array, or k or radius is not an integer.
            ValueError: the code has another length, k is below 1, radius below 0, or the filter
                has another shape.
            GalleryCorrupt: the file is damaged.
        """
        check_array(code, "code")
        return self.search_codes(code[None], k, radius=radius, filter=filter)[0]

    def search_codes(
        self,
        codes: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        filter: Filter | None = None,
    ) -> list[list[Hit]]:
        """Find the items nearest to each of many codes, faster than one search after the other.

        Args:
            codes: uint8, (q, bits // 8), from `encode`, or your own; or (q, 1 + looks, bits // 8),
                all views of images: `encode(images).views`.
            k: maximum number of hits per code, at least 1.
            radius: as for `search`.
            filter: as for `search`.

        Returns:
            The hits of each code, in the order of `codes`.

        Raises:
            As `search_code`.
        """
        check_array(codes, "codes")
        if codes.ndim not in (2, 3):
            width = self.bits // 8
            raise ValueError(
                f"codes must have shape (q, {width}) or (q, views, {width}), got {codes.shape}"
            )
        views = codes if codes.ndim == 3 else codes[:, None]
        queries = [Query(view, (None,) * len(view)) for view in views]
        return self._hits(queries, views, k, radius, filter, None)

    def verify(self) -> list[str]:
        """Check every byte of the file.

        Returns:
            A sentence for each thing that is damaged; empty if the file is sound.
        """
        return list(self._file().problems())

    def close(self) -> None:
        """Let go of the file. Later calls raise GalleryError; a running search still ends."""
        self._mapped = None

    def __enter__(self) -> "FlatGallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> _Mapped:
        if self._mapped is None:
            raise GalleryError(f"{self.path}: is closed; open it again")
        return self._mapped

    def _file(self) -> FlatFile:
        return self._opened().file

    def _use(self, encoder: Encoder) -> None:
        info = {"fingerprint": self.fingerprint or "", "model": self.model_name}
        check_model(info, encoder.model, self.path)
        self._encoder = encoder

    def _adapted(self, encoded: Encoded) -> Encoded:
        if self._transform is None:  # two threads may both read it
            self._transform = self._file().adaptation()
        return adapted(encoded, self._transform, self.encoder)

    def _item(self, slot: int) -> Item:
        file, index = self._opened()
        key, metadata = file.record(slot)
        if isinstance(index, HammingIndex):
            return Item(key, index[slot], metadata)
        codes, steps = index[slot], file.boxes[slot]
        is_look = (steps != WHOLE).any(axis=1)
        looks = codes[1:][is_look] if is_look.any() else _NO_LOOKS
        boxes = (steps[is_look] / BOX_STEPS).astype(np.float32)
        return Item(key, codes[0], metadata, looks=looks, boxes=boxes)

    def _hits(
        self,
        queries: list[Query],
        views: NDArray[np.uint8],
        k: int,
        radius: int | None,
        filter: Filter | None,
        exclude: NDArray[np.int64] | None,
    ) -> list[list[Hit]]:
        """The hits of queries, whose views are uint8, (q, views, bits // 8)."""
        k = hit_count(k)
        radius = None if radius is None else radius_within(radius)
        file, index = self._opened()
        lims, distances, slots = within_bits(index, views, radius, k, filter, exclude)
        return [
            self._hits_of(query, slots[start:end], distances[start:end].tolist(), file, index)
            for query, (start, end) in zip(queries, pairwise(lims.tolist()), strict=True)
        ]

    def _hits_of(
        self,
        query: Query,
        slots: NDArray[np.int64],
        distances: list[float],
        file: FlatFile,
        index: HammingIndex | ViewIndex,
    ) -> list[Hit]:
        """The items in some slots as hits of a query."""
        is_whole = len(query.views) == 1 + self.looks and query.boxes[0] is None
        calibration = self.calibration if is_whole else None
        of_query, of_items = [0] * len(slots), [0] * len(slots)
        if isinstance(index, ViewIndex) and len(slots):
            of_query, of_items = (p.tolist() for p in nearest_pairs(query.views, index[slots]))
        hits = []
        for slot, distance, part, place in zip(
            slots.tolist(), distances, of_query, of_items, strict=True
        ):
            key, metadata = file.record(slot)
            box = _box(file, slot, place)
            chance = same_kind(calibration, distance)
            hits.append(Hit(key, distance, chance, None, metadata, None, box, query.boxes[part]))
        return hits


def _box(file: FlatFile, slot: int, view: int) -> Box | None:
    """Where a view of an item is; None for the whole image, which free places repeat."""
    steps = file.boxes[slot, view - 1] if view else None
    if steps is None or (steps == WHOLE).all():
        return None
    left, top, right, bottom = map(float, (steps / BOX_STEPS).astype(np.float32))
    return left, top, right, bottom


def _reopened(path: str | os.PathLike[str], encoder: Encoder | None) -> FlatGallery:
    return FlatGallery(path, encoder=encoder)
