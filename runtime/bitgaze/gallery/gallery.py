"""Gallery: the public face of the gallery's operations, over one store.

Each method checks its arguments, opens a snapshot or a transaction, and leaves the work to the
module of the operation: search.py, sync/, reencode.py, duplicates.py, explain.py.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace as with_changes
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.arguments import check_array, code_length, radius_within
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import Box, Source
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.encoding.words import Vocabulary
from bitgaze.errors import BitgazeError, FingerprintMismatch, GalleryError, WordError
from bitgaze.gallery.adaptation import Adaptation, adapted
from bitgaze.gallery.duplicates import DuplicateGroup, default_radius, find_duplicates
from bitgaze.gallery.explain import explain
from bitgaze.gallery.file_format import gallery_path
from bitgaze.gallery.filters import conditions
from bitgaze.gallery.flat.export import export_flat
from bitgaze.gallery.hits import Hit
from bitgaze.gallery.info import ModelInfo, check_model, origin
from bitgaze.gallery.items import Item, image_identity
from bitgaze.gallery.query import Query, code_inside
from bitgaze.gallery.reencode import reencode
from bitgaze.gallery.remembered import Sources, find_model
from bitgaze.gallery.search import (
    Ranking,
    SearchParams,
    as_source,
    encode_query,
    image_query,
    item_query,
    nearest,
    search,
)
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.forget import forget
from bitgaze.gallery.sync.report import SyncReport
from bitgaze.gallery.sync.sync import sync
from bitgaze.gallery.words import WordHit, search_words

Where = Mapping[str, Any]

_T = TypeVar("_T")
_NO_DEFAULT: Final = object()

MEMORY = ":memory:"
# SQLite counts milliseconds in 31 bits.
_MAX_TIMEOUT_S = 1e6


class Gallery:
    """A searchable collection of images in one file: a key, a code and metadata for each image.

    All codes come from one model, or are your own. They are held in memory and in the file; when a
    call returns, its change is in the file. Any number of processes can read while one writes; each
    sees a commit at its next call. A read-only file can be searched. Safe to use from several
    threads. A new file can be read by its owner only, unless its folder has the setgid bit or a
    default ACL.

    Args:
        path: the gallery's file, usually named `*.bitgaze`. ":memory:" is for a gallery that is
            gone once it is closed: a temporary file, in memory where the system has /dev/shm.
        encoder: the model that encodes images; defaults to the one that the last sync used, else
            the one that comes with bitgaze, which is read only when needed: to create a file, or to
            encode.
        bits: instead of a model: the gallery stores your own codes of this length in bits, a
            multiple of 8 up to 1024, such as pHash or PDQ; use `add_code` and `search_code`.
        looks: how many parts of each image a new gallery keeps codes of, besides that of the whole
            image: places where the model looks again, closer. They find objects that are a part of
            an image. Defaults to what the model was made for (the general one: 3). Each look takes
            as long to encode as the image, and as much memory as its code; 0 for none. A gallery
            that exists keeps its own number.
        create: create the file if it does not exist; if False, a missing file is an error.
        timeout_s: how long to wait for another process that is writing, in seconds, at least 0.

    Raises:
        GalleryError: the file or its folder does not exist, or the file is not a gallery, locked,
            or of a newer format.
        GalleryCorrupt: the file is damaged.
        FingerprintMismatch: the gallery's codes are not from `encoder`, or not your own codes of
            `bits` bits.
        TypeError: `bits` is not an integer.
        ValueError: both `encoder` and `bits` are given, `bits` is not a valid length, or
            `timeout_s` is out of range.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        bits: int | None = None,
        looks: int | None = None,
        create: bool = True,
        timeout_s: float = 5.0,
    ) -> None:
        if encoder is not None and bits is not None:
            raise ValueError("pass an encoder or bits, not both: an encoder's codes have its bits")
        if bits is not None:
            bits = code_length(bits)
            if looks:
                raise ValueError("pass looks or bits, not both: only a model can look")
        if not 0 <= timeout_s <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s is {timeout_s}, expected 0 to {_MAX_TIMEOUT_S:g}")
        self._folder: TemporaryDirectory[str] | None = None
        if path == MEMORY:
            if not create:
                raise GalleryError(f"{MEMORY}: a gallery in memory is always new; leave out create")
            shared = Path("/dev/shm")
            root = shared if os.access(shared, os.W_OK) else None
            self._folder = TemporaryDirectory(prefix="bitgaze-", dir=root)
            path = Path(self._folder.name, "memory.bitgaze")
        self._is_closed = False
        self.path = gallery_path(path)
        self._encoder = encoder
        self._encoder_lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None

        def model_info() -> ModelInfo:
            if bits is not None:
                return ModelInfo("", "", bits, None)
            model = encoder.model if encoder is not None else read_model(DEFAULT_MODEL)
            contract = model.contract
            count = contract.look_count(looks)
            return ModelInfo(
                model.fingerprint,
                contract.name,
                contract.bits,
                contract.calibration_of(count),
                count,
                STRUCTURE_BITS,
            )

        self._store = Store(self.path, model_info if create else None, timeout_s)
        try:
            with self._store.reading():
                if encoder is not None:
                    check_model(self._store.info, encoder.model, self.path)
                if bits is not None and (self.fingerprint or self.bits != bits):
                    raise FingerprintMismatch(
                        f"{self.path}: its codes are {origin(self._store.info)} and have "
                        f"{self.bits} bits, expected your own codes of {bits} bits; open it "
                        "without bits, or create another gallery"
                    )
                if looks is not None and looks != self._store.info["looks"]:
                    raise GalleryError(
                        f"{self.path}: its images have {self._store.info['looks']} looks, expected "
                        f"{looks}; open it without looks, or create another gallery"
                    )
        except BaseException:
            self._store.close()
            raise

    @property
    def bits(self) -> int:
        """Length of a code in bits."""
        return self._store.index.bits

    @property
    def fingerprint(self) -> str | None:
        """Fingerprint of the model that made the codes, 64 hex digits; None for your own codes."""
        return self._store.info["fingerprint"] or None

    @property
    def model_name(self) -> str | None:
        """Name of the model that made the codes; None for your own codes."""
        return self._store.info["model"] or None

    @property
    def looks(self) -> int:
        """How many parts of each image the gallery keeps codes of, at most; 0 for none."""
        looks: int = self._store.info["looks"]
        return looks

    @property
    def has_structure(self) -> bool:
        """Whether items have structural codes, which distinguish copies from look-alikes.

        Galleries of your own codes have none, nor have files of older versions until `adapt`.
        """
        with self._store.reading():
            return bool(self._store.info["structure"])

    @property
    def adaptation(self) -> str | None:
        """Fingerprint of the adaptation by `adapt`, 64 hex digits; None for the model's own codes.

        Codes can only be compared if both their `fingerprint` and their adaptation are equal.
        """
        with self._store.reading():
            adaptation: Adaptation | None = self._store.info["adaptation"]
            return None if adaptation is None else adaptation.fingerprint

    @property
    def state(self) -> str:
        """A text that changes whenever items or pairs called distinct do, in any process.

        What was computed from the gallery holds for as long as it stays the same.
        """
        with self._store.reading():
            digest = hashlib.blake2b(self._store.info["state"], digest_size=12)
            for pair in sorted(self._store.distinct_pairs()):
                digest.update(b"".join(pair))
            return digest.hexdigest()

    @property
    def calibration(self) -> Calibration | None:
        """What distances mean, measured by `adapt` or else by the model; None if not measured."""
        with self._store.reading():
            return self._store.calibration

    @property
    def sources(self) -> Sources | None:
        """The folders and patterns that the last `sync` was given, and when; None without a sync.

        Raises:
            GalleryCorrupt: they are damaged.
        """
        with self._store.reading():
            return self._store.sources

    @property
    def model_file(self) -> Path:
        """The file of the model: the one that the last `sync` used, or the one of bitgaze.

        Another model may be there by now; `encoder` checks that it is the same.
        """
        with self._store.reading():
            return find_model(self._store.info, self._store.file)

    @property
    def encoder(self) -> Encoder:
        """The model that encodes images for this gallery; loads it if none was given.

        That is the model which the last sync used, if its file is still there or beside the
        gallery; else the default one.

        Raises:
            FingerprintMismatch: none was given, and the model was not found.
        """
        with self._encoder_lock:
            if self._encoder is None:
                if self.fingerprint is None:
                    raise FingerprintMismatch(
                        f"{self.path}: holds your own codes and has no model, so it cannot encode "
                        "images; use add_code, search_code and keys"
                    )
                file, sources = self.model_file, self.sources
                if sources is not None and sources.model and file == DEFAULT_MODEL:
                    raise FingerprintMismatch(
                        f"{self.path}: its model {self.model_name!r} is neither in {sources.model} "
                        "nor beside the gallery; name its file: -m FILE on the command line, "
                        "encoder=Encoder(FILE) in Python"
                    )
                encoder = Encoder(file)
                check_model(self._store.info, encoder.model, self.path)
                self._encoder = encoder
            return self._encoder

    def __repr__(self) -> str:
        name = MEMORY if self._folder is not None else str(self.path)
        if self._is_closed:
            return f"Gallery({name!r}, closed)"
        try:
            model = "your own codes" if self.model_name is None else f"model {self.model_name!r}"
            return f"Gallery({name!r}, {len(self):,} items, {self.bits} bits, {model})"
        except BitgazeError as error:
            return f"Gallery({name!r}, {type(error).__name__})"

    def __len__(self) -> int:
        with self._store.reading():
            return len(self._store.index)

    def __contains__(self, key: object) -> bool:
        with self._store.reading():
            return isinstance(key, str) and self._store.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        """All keys as of this call, in the gallery's order.

        New items come last; the last item takes the place of a removed one.
        """
        with self._store.reading():
            return iter(self._store.keys())

    @overload
    def get(self, key: str) -> Item: ...

    @overload
    def get(self, key: str, default: _T) -> Item | _T: ...

    def get(self, key: str, default: Any = _NO_DEFAULT) -> Any:
        """The item with this key.

        Args:
            key: of the item.
            default: what to return if there is none; without it, that is a KeyError.

        Raises:
            KeyError: no item has this key, and no default is given; the message names the nearest
                keys of a gallery of up to 1,000 items.
            TypeError: the key is not a str.
            GalleryCorrupt: the file is damaged.
        """
        with self._store.reading():
            if default is not _NO_DEFAULT and self._store.find(key) is None:
                return default
            return self._store.get(key)

    def fields(self) -> list[str]:
        """Names of the fields that items have, sorted; `where` filters by them.

        Those of metadata, and of what sync read from the images' files: `width`, `height`,
        `format`, `date`, `camera`, `lens`, `latitude`, `longitude` and `truncated`, see
        `bitgaze.encoding.properties.properties_of`.

        Raises:
            GalleryCorrupt: the file is damaged.
        """
        with self._store.reading():
            return sorted(self._store.fields())

    def unread_fields(self, *names: str) -> set[str]:
        """Those of some fields for which a search would have to read every item.

        The gallery keeps columns of the 64 most common fields of each 4,096 items, unless a value
        is very large; what others need is read once, while it fits into memory.

        Raises:
            GalleryCorrupt: the file is damaged.
        """
        with self._store.reading():
            return set().union(*self._store.unread_fields(names).values())

    def read_fields(self, *names: str) -> None:
        """Read what conditions on fields require, before a search.

        A search does so itself, but nobody else can read meanwhile; this lets them in between.

        Raises:
            GalleryCorrupt: the file is damaged.
        """
        self._store.read_fields(names)

    def search(
        self,
        query: Source | Query,
        k: int = 10,
        *,
        radius: int | None = None,
        where: Where | None = None,
        exclude_self: bool = False,
        ranking: Ranking = "hamming",
        region: Box | None = None,
        fold: bool = False,
    ) -> list[Hit]:
        """Find copies of an image, and the items nearest to it; exact.

        Copies come first, however far: items that `Hit.is_copy` says are the image, altered. Among
        all items, structural codes find those that were resized, compressed, recoloured or blurred,
        and what an image shows inside bars or margins of one colour, as a screenshot does; what was
        cropped, mirrored or turned is found among the 16 nearest. Items that may be such parts of
        the query, or it of them, are read from their files: four at most. Without structural codes
        (see `has_structure`), hits are in order of distance alone. A `Query` that was read from
        bytes, such as by the page of `bitgaze serve`, has no image to read: parts stay by distance.

        Args:
            query: an image as `bitgaze.encoding.images.load` takes it, the key of an item, or what
                `query` returned. A str that is a key is taken as a key, otherwise as a path.
            k: maximum number of hits, at least 1.
            radius: maximum Hamming distance, at least 0, of copies, too; None for no limit.
            where: conditions that an item's metadata must meet, all of them; or its properties,
                for a field (see `fields`) that its own metadata do not have. Maps a field to a
                value, or to operators: `{"album": "2024", "year": {">=": 2020, "<": 2024}}`. The
                operators are <, <=, >, >=, !=, in (a list of values), and like (a pattern in which
                % matches any characters and _ matches one). A list in metadata meets a condition if
                one of its elements does; an absent field equals None; "@key" stands for the key.
                Composed and decomposed spellings of a letter (NFC, NFD) are equal.
                The first search by a field reads its column, which takes about 0.1 s for a million.
            exclude_self: leave out the item with the key `query`, or made from the file `query`.
            ranking: "hamming" orders by distance. "asymmetric" takes the nearest by distance (all
                within `radius`; without one 10 k, but at least 100) and orders them by the sum of
                the query's absolute hash values over the bits that differ, so that a bit which was
                close to flipping counts little. It finds more, and requires the image, not a key.
            region: search for what is in this part of the image: left, top, right, bottom, in
                [0, 1] of the upright image. Of a key, the item's file is read.
            fold: leave out hits that are copies of a nearer one, which has their keys in
                `Hit.alike`; of the 4 k nearest.

        Returns:
            Copies, then the other hits; each by ascending distance or, with "asymmetric", by that
            sum; ties by distance, then in the order of `iter(gallery)`.

        Raises:
            ImageError: the query cannot be read.
            FingerprintMismatch: the encoder is not the gallery's model.
            TypeError: k or radius is not an integer, or the query is not an image.
            WhereError: `where` names a field that no item has (except to ask whether it is None),
                or compares a range with another type than that of all its values.
            ValueError: k is below 1, radius below 0, the ranking unknown, the query of an
                asymmetric ranking a key, `where` invalid, or `exclude_self` used with a query that
                is neither key nor path.
        """
        return search(
            self._store,
            lambda: self.encoder,
            query,
            SearchParams(k, radius, conditions(where), fold),
            ranking=ranking,
            exclude_self=exclude_self,
            region=region,
        )

    def search_words(
        self, words: str, k: int = 10, *, where: Where | None = None, least: float = 0.01
    ) -> list[WordHit]:
        """Find the items that most probably show what words name, such as "dog" or "fire engine".

        The words are the names of the model's classes, their synonyms, and kinds of them, as in
        "vehicle" or "food": ImageNet's 1,000 classes and WordNet's nouns above them for the general
        model, its own classes for one that you have trained. People, names, actions and text in
        images are not known. Alternatives are divided by commas, "dog, cat"; of other words, an
        image must show all.

        What the words' classes are seen with in this gallery counts a little, so an image's
        probability depends on the others: where dogs often come with leashes, a leash speaks for a
        dog.

        The first call of a process reads the likely classes of all items, which for a million takes
        about 7 s and 120 MB; later ones 0.3 s a word. What has changed is read again, 4,096 items
        at a time.

        Args:
            words: what to search for, in English.
            k: maximum number of hits, at least 1.
            where: as for `search`.
            least: the lowest probability of a hit, in [0, 1].

        Returns:
            Hits by descending probability; ties in the order of `iter(gallery)`.

        Raises:
            WordError: a word is not known (the message names near ones), the model does not name
                its classes, or the gallery is from a version that did not store them.
            FingerprintMismatch: the gallery's model was not found.
            TypeError: k is not an integer, or words not a str.
            ValueError: k is below 1, `least` out of range, or `where` invalid.
        """
        return search_words(self._store, self.vocabulary, words, k, conditions(where), least)

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that `search_words` knows, from the contract of the gallery's model.

        Raises:
            WordError: the model does not name its classes, or there is no model.
            FingerprintMismatch: the gallery's model was not found.
        """
        if self.fingerprint is None:
            raise WordError(f"{self.path}: holds your own codes; words require a model's classes")
        if self._vocabulary is None:
            model = self._encoder.model if self._encoder else read_model(self.model_file)
            check_model(self._store.info, model, self.path)
            self._vocabulary = Vocabulary.of(model.contract)
        return self._vocabulary

    def query(self, image: Source, *, region: Box | None = None) -> Query:
        """Encode an image for several searches, such as with other conditions or more hits.

        Args:
            image: as `bitgaze.encoding.images.load` takes it.
            region: as for `search`.

        Raises:
            ImageError: the image cannot be read.
            FingerprintMismatch: the encoder is not the gallery's model.
            TypeError, ValueError: the region is not a box in [0, 1].
        """
        source = as_source(image, region)
        encoded = encode_query(self._store, self.encoder, source)
        inside = code_inside(source)
        with self._store.reading():
            return image_query(self._store, self.encoder, source, encoded, inside)

    def item_query(self, key: str) -> Query:
        """The query for an item of the gallery; `search` of the key makes it too.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str.
            GalleryCorrupt: the file is damaged.
        """
        with self._store.reading():
            return item_query(self._store, self._store.item(self._store.slot(key)))

    def search_code(
        self,
        code: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        where: Where | None = None,
    ) -> list[Hit]:
        """Find the items nearest to a code; like `search`.

        Args:
            code: uint8, (bits // 8,), from `encode`, or your own; or (1 + looks, bits // 8), all
                views of an image: `encode([image]).views[0]`.
            k: maximum number of hits, at least 1.
            radius: as for `search`.
            where: as for `search`.

        Returns:
            Hits by ascending distance; ties in the order of `iter(gallery)`.

        Raises:
            TypeError: the code is not a uint8 array, or k or radius is not an integer.
            ValueError: the code has another length, k is below 1, radius below 0, or `where`
                invalid.
        """
        check_array(code, "code")
        return self.search_codes(code[None], k, radius=radius, where=where)[0]

    def search_codes(
        self,
        codes: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        where: Where | None = None,
    ) -> list[list[Hit]]:
        """Find the items nearest to each of many codes, faster than one search after the other.

        Args:
            codes: uint8, (q, bits // 8), from `encode`, or your own; or (q, 1 + looks, bits // 8),
                all views of images: `encode(images).views`.
            k: maximum number of hits per code, at least 1.
            radius: as for `search`.
            where: as for `search`.

        Returns:
            The hits of each code, in the order of `codes`; see `search_code`.

        Raises:
            TypeError: codes is not a uint8 array, or k or radius is not an integer.
            ValueError: the codes have another length, k is below 1, radius below 0, or `where`
                invalid.
        """
        params = SearchParams(k, radius, conditions(where))
        with self._store.reading():
            return nearest(self._store, codes, params)

    def radius(self, false_match_rate: float = 1e-4) -> int:
        """The largest radius whose false-match rate does not exceed a limit.

        Args:
            false_match_rate: share of unrelated images within the radius, above 0 and below 1.
                Multiplied by the number of items, it is the expected number of false matches per
                search.

        Returns:
            A Hamming distance, 0..bits.

        Raises:
            GalleryError: there is no calibration: the codes are your own, or the model has none and
                `adapt` was not called.
            ValueError: the rate is out of range, or below the lowest rate that was measured.
        """
        calibration = self.calibration
        if calibration is None:
            if self.model_name is None:
                raise GalleryError(
                    f"{self.path}: your own codes have no calibration; choose a radius from the "
                    "distances of pairs that you know"
                )
            raise GalleryError(
                f"{self.path}: model {self.model_name!r} has no calibration; use a calibrated "
                "model, or adapt the gallery, which measures one"
            )
        return calibration.radius(false_match_rate)

    def encode(self, sources: Iterable[Source]) -> Encoded:
        """Encode images to codes of this gallery, for `search_code`, `upsert` or your own use.

        Like `Encoder.encode`, but in an adapted gallery codes and hash values are adapted, and only
        comparable with those of this gallery.

        Args:
            sources: images as `bitgaze.encoding.images.load` takes them.

        Returns:
            One row per image, in order; unreadable images are listed in `errors`.

        Raises:
            FingerprintMismatch: the encoder is not the gallery's model.
            TypeError: a single image instead of several, or a source that is not an image.
        """
        return self._adapted(self.encoder.encode(sources, looks=self.looks))

    def add(
        self,
        key: str,
        image: Source,
        metadata: Mapping[str, Any] | None = None,
        *,
        replace: bool = False,
    ) -> None:
        """Encode an image and store its code under a new key.

        For a folder of images, use `sync`: it is faster and tracks the files.

        Args:
            key: any string that is not in use yet.
            image: as `bitgaze.encoding.images.load` takes it.
            metadata: a JSON object as a dict; hits include it, and `where` filters by it.
                At most 16 MB as JSON, 100 levels deep, with integers of up to 640 digits.
            replace: if the key is in use, replace its item and all its metadata.

        Raises:
            GalleryError: the key is in use, without `replace`, or the file cannot be written.
            ImageError: the image cannot be read.
            FingerprintMismatch: the encoder is not the gallery's model.
            TypeError: the key is not a str, or JSON cannot represent the metadata.
            ValueError: the key is not valid Unicode, or the metadata hold NaN or infinity.
        """
        with self._store.reading():
            if not replace:
                self._store.check_free(key)  # before the work of encoding
        encoded = encode_query(self._store, self.encoder, image)
        with self.transaction():
            if not replace:
                self._store.check_free(key)  # again, under the write lock
            self.upsert([Item.of_image(key, self._adapted(encoded), metadata=_as_dict(metadata))])

    def add_code(
        self, key: str, code: NDArray[np.uint8], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Store a code under a new key; like `add`, without an image.

        Args:
            key: any string that is not in use yet.
            code: from `encode`, or your own: uint8, (bits // 8,).
            metadata: a JSON object as a dict; hits include it, and `where` filters by it.
                At most 16 MB as JSON, 100 levels deep, with integers of up to 640 digits.

        Raises:
            GalleryError: the key is in use, or the file cannot be written.
            TypeError: the key is not a str, the code is not a uint8 array, or JSON cannot represent
                the metadata.
            ValueError: the code has another length, the key is not valid Unicode, or the metadata
                hold NaN or infinity.
        """
        with self.transaction():
            self._store.check_free(key)
            self.upsert([Item(key, code, _as_dict(metadata))])

    def upsert(self, items: Iterable[Item]) -> None:
        """Store items, replacing those with the same keys; all of them or, after an error, none.

        An item replaces everything that was stored under its key. To change one that sync made
        without detaching it from its file, start with `dataclasses.replace(gallery.get(key), ...)`.

        Args:
            items: with codes from `encode`, or your own.

        Raises:
            GalleryError: the file cannot be written, or an item's file belongs to another item.
            TypeError: a key is not a str, a code is not a uint8 array, JSON cannot represent the
                metadata, or a file is not a valid `FileState`.
            ValueError: a code has another length, a key is not valid Unicode, or metadata hold NaN
                or infinity.
        """
        items = list(items)
        if not items:
            return
        with self._store.writing():
            self._store.put_all(items)

    def set_metadata(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Replace all of an item's metadata.

        Args:
            key: of the item.
            metadata: a JSON object as a dict; {} removes all metadata.

        Raises:
            KeyError: no item has this key.
            TypeError: the key is not a str, or JSON cannot represent the metadata.
            ValueError: the metadata hold NaN or infinity.
            GalleryError: the file cannot be written.
        """
        if metadata is None:
            raise TypeError("metadata must be a dict, got NoneType; pass {} to remove all metadata")
        with self._store.writing():
            item = self._store.item(self._store.slot(key))
            self._store.put(with_changes(item, metadata=_as_dict(metadata)))

    def update_metadata(self, key: str, changes: Mapping[str, Any]) -> None:
        """Change some fields of an item's metadata, and keep the others.

        Args:
            key: of the item.
            changes: fields and their new values, as JSON; a value of None is stored as null.

        Raises:
            KeyError, TypeError, ValueError, GalleryError: as for `set_metadata`.
        """
        with self._store.writing():
            item = self._store.item(self._store.slot(key))
            metadata = item.metadata | _as_dict(changes)
            self._store.put(with_changes(item, metadata=metadata))

    def remove(self, *keys: str) -> None:
        """Remove items and overwrite their keys and codes in the file; all items or none.

        If another process is reading or writing at that moment, the log next to the file may keep
        the removed bytes until the next removal, or until no process has the gallery open. Copies
        that SQLite left when it moved rows stay in the file until `compact`; `close` compacts a
        file of up to 64 MB.

        Raises:
            KeyError: no item has one of the keys.
            TypeError: a key is not a str.
            GalleryError: the file cannot be written.
        """
        if not keys:
            return
        with self._store.writing():
            for key in keys:
                self._store.delete(key)

    def forget(self, *targets: str | os.PathLike[str], dry_run: bool = False) -> list[str]:
        """Remove the items that sync made from images of a folder, or that match a pattern.

        The files stay, and the next sync of their folder adds them again, unless it leaves them
        out. Items added by hand stay. Overwrites removed data as `remove` does.

        Args:
            targets: folders, which need not exist any more, or images, by any of their names; or,
                if the gallery has none from there, patterns with `*`, `?` or `[]`: for the name of
                the image or a folder that contains it ("@eaDir*"), or with a "/" for its path or
                the end of its path ("/mnt/old/*", "2024/raw/*").
            dry_run: only return the keys.

        Returns:
            The keys of the removed items; empty if nothing matches.

        Raises:
            GalleryError: the file cannot be written.
            ValueError: no target, or an empty pattern.
        """
        return forget(self._store, targets, dry_run=dry_run)

    def rename(self, key: str, new_key: str) -> None:
        """Change an item's key. An item that sync made still follows its file.

        Raises:
            KeyError: no item has the old key.
            TypeError: a key is not a str.
            GalleryError: the new key is in use, or the file cannot be written.
            ValueError: the new key is not valid Unicode.
        """
        with self._store.writing():
            self._store.move([(key, new_key, self.get(key).file)])

    def sync(
        self,
        *folders: str | os.PathLike[str],
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        metadata: Callable[[str], Mapping[str, Any] | None] | None = None,
        dry_run: bool = False,
        allow_empty: bool | Iterable[str | os.PathLike[str]] = False,
        all_folders: bool = False,
        tolerant: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> SyncReport:
        """Make the gallery match the images below folders, by adding, updating and removing items.

        An image is a file whose name ends in one of `bitgaze.encoding.formats.SUFFIXES`; names that
        start with a dot are left out. Its key is its absolute path as text. Items added by hand,
        and items of other folders, are not changed.

        Links are followed, and each folder and each image counts once, under one name: the one that
        the gallery already has items from, if a given folder is reached by a link now and was
        reached by another path before. Hard links are names of one image too; the first is taken.
        The report lists what was skipped, such as further names, and the gallery's own files, which
        are never opened as images.

        Sync does not open files whose size and times (modification and change) are unchanged, and
        does not encode files whose content is unchanged. An item follows its image when it is
        renamed, moved to another of the folders, or swapped with another image. If a file becomes
        another image, its item keeps its metadata.

        Sync commits every few seconds; after an interruption, the next call continues. Other
        processes can write in the meantime. Files can change and move in the meantime too: each
        image is read once, so that an item's code is always that of the content it records. A file
        that changes while it is read is reported as failed, and taken by the next sync.

        A disk that is away for one run must not lose its items, which may have metadata. So an item
        whose image is gone is kept, and reported in `SyncReport.missing`, if its folder, or one
        that contains it, now holds no image at all and

            - is one of the given folders; or
            - exists and is empty, like the mount point of a disk that is not mounted; or
            - is on another device than the folder that contains it, so another disk may be mounted;
              or
            - had more than 20 images, whether it is gone or holds other files now.

        The same goes for a folder that holds none of its former images but fewer new ones than are
        gone, as if put there while no disk was mounted; and for more than 20 images that are gone,
        if they are more than half of those from one of the given folders. Until that is settled, no
        new image is added from this folder, and `SyncReport.waiting` counts them. Images that were
        renamed or moved do not count as gone. `allow_empty` removes the items, of all folders or of
        those that it names; a folder that you have emptied yourself, inside a given one, can also
        be deleted. A given folder that does not exist any more, but was synced before, is one that
        holds no image: its items are kept, and the other folders are synced. Once all of them have
        moved to other folders or been removed, it is no longer remembered.

        A pattern matches an image if it matches the image itself or a folder that contains it: by
        name or, if the pattern contains a "/", by path relative to the given folder, with or
        without a leading "/". "*.png" matches every PNG, "thumbs" everything below any folder of
        that name, "2024/*.jpg" every JPEG below 2024, "*/raw/*" everything below any folder raw.
        `*` matches any characters, including "/"; `?` matches one character; `[abc]` matches one of
        these. Case and a trailing "/" are ignored. Items whose images the patterns leave out are
        not changed, even if their files are changed; they are removed once their files are gone.
        `forget` removes them at once. The gallery remembers folders and patterns (`sources`).

        System folders are left out: thumbnails, bins and other data of NAS systems, Windows, macOS
        and Linux (`bitgaze.gallery.sync.patterns.SYSTEM_FOLDERS`), and in a photo library
        (*.photoslibrary, *.aplibrary) everything but its originals. A folder that you name yourself
        is always searched.

        A file named .bitgazeignore hides images in its folder and below, in the syntax of
        gitignore; it requires pathspec (`pip install 'bitgaze[ignore]'`). `exclude` and such files
        both apply.

        Args:
            folders: to search recursively; one may contain another.
            include: patterns; only images that match one are included. Empty: all images.
            exclude: patterns; images that match one are left out.
            metadata: returns a new image's metadata by its path: a JSON object as a dict, or None
                for none. Not called for images that the gallery already holds. Its exceptions end
                the sync.
            dry_run: write and encode nothing, and report what a sync would do. Reads only files
                that may have been renamed, so images that cannot be read or decoded are not
                reported.
            allow_empty: remove also the items that look as if their disk were away (see above):
                True for all of them, or folders, for those whose images were in one.
            all_folders: include system folders, hidden ones too.
            tolerant: take JPEGs whose end is missing, as far as they go. Their items have the
                property `truncated`, which is True. Otherwise they are reported as failed.
            on_progress: called with (done, total) images, first while changed files are compared,
                if there are any, and again from the start while images are encoded.

        Returns:
            What was done.

        Raises:
            GalleryError: a folder does not exist, and was never synced, or none exists; or none
                has any images although items from each would be removed (as if their disks were not
                mounted; without `allow_empty`, nothing is changed); or a .bitgazeignore file cannot
                be read, or pathspec is missing; or the gallery's file cannot be written.
            FingerprintMismatch: an image has to be encoded, and the encoder is not the gallery's
                model.
            KeyboardInterrupt: Ctrl-C; while images are encoded, its text says how many are done and
                how many are left.
            TypeError: a pattern is not a str, or metadata is not a JSON object.
            ValueError: no folder is given, or a pattern is empty.
        """
        return sync(
            self._store,
            lambda: self.encoder,
            *folders,
            model=self._model_file(),
            include=include,
            exclude=exclude,
            metadata=metadata,
            dry_run=dry_run,
            allow_empty=allow_empty,
            all_folders=all_folders,
            is_tolerant=tolerant,
            on_progress=on_progress,
        )

    def adapt(
        self,
        images: Callable[[str], Source] | None = None,
        *,
        reset: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Recompute the gallery's codes, adapted to its images.

        A model's bits are balanced on the images it was made with; on others many carry little
        information. This learns an offset and a rotation of hash values from the gallery's own
        images, without labels, and measures what distances then mean. Images added or searched for
        later are encoded in the same way. More images give a better adaptation; repeat it when the
        gallery has grown to several times its size.

        Reads and encodes all images again, and 200 of them in ten altered versions each. Replaces
        the codes in one transaction at the end, and overwrites the old ones as `remove` does. Other
        processes can write in the meantime. If an image is missing or changed, nothing is changed.

        The new `calibration` takes `duplicate` from the altered versions, and `false_match` from
        pairs of the gallery's images; some of these may be related, so the true rates are lower.
        A gallery of an older version gets structural codes (see `has_structure`).
        `kind`, which requires labels, is carried over from the model's calibration: each distance
        takes the model's probability at the distance with the same false-match rate.

        Args:
            images: returns the image of an item added by hand, by its key:
                `lambda key: folder / key`, or `images.__getitem__` of a dict. Required if the
                gallery has such items.
            reset: return to the model's own codes and calibration.
            on_progress: called with (done, total) images as they are encoded.

        Returns:
            The number of items whose codes were recomputed: all, or 0 if there was nothing to
            reset.

        Raises:
            GalleryError: there are fewer than bits / 2 different images; an image is missing,
                changed, unreadable or not given; or the file cannot be written.
            FingerprintMismatch: the encoder is not the gallery's model.
        """
        if reset and self.adaptation is None:
            return 0
        return reencode(self._store, self.encoder, images, reset=reset, on_progress=on_progress)

    def duplicates(
        self,
        radius: int | None = None,
        *,
        look_alikes: bool = False,
        where: Where | None = None,
        reference: str | os.PathLike[str] | None = None,
        rotated: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[DuplicateGroup]:
        """Find groups of duplicates. Deletes nothing.

        In three tiers: identical files; copies, the same image resized, compressed, recoloured,
        cropped, with a border or a caption; and look-alikes, only if asked for. Every pair of
        structural codes is compared. Copies are those within 16 bits, and those within 60 for which
        `Hit.same_image` would be at least .9, seen from either image. Crops and bordered images are
        looked for among the 8 images that are nearest to each in meaning. Images too plain to have
        a structure are duplicates only if their files are identical; so are items whose structural
        code is not known.

        A gallery without structural codes (`has_structure`) has identical files and look-alikes.

        Each member of a group is a duplicate of its best copy, not only of another member.
        `set_distinct` keeps a pair out of one group.

        Args:
            radius: maximum Hamming distance of look-alikes; defaults to bits / 12. Asks for
                look-alikes. With the general model, whose default is 10 bits, it joins 98 % of
                resized photographs with their originals, but also different QR codes or pages of
                text with each other.
            look_alikes: whether to look for look-alikes too.
            where: conditions that an item's metadata must meet, as for `search`.
            reference: a folder: only groups with a file in it and one elsewhere. The best copy is
                the best in the folder, and the others are those elsewhere.
            rotated: whether an image that is turned by a quarter, or mirrored, is a copy, too. An
                arrow to the left is one to the right, mirrored, so look at these groups.
            on_progress: called with (done, total) codes or images; `done` starts again for each
                kind of comparison, and for groups, whose files are read. Must not write to the
                gallery. An exception that it raises ends the search.

        Returns:
            Groups of at least two, ordered by their first item.

        Raises:
            TypeError: radius is not an integer.
            ValueError: radius is below 0, or `where` is invalid.
        """
        if radius is not None:
            radius = radius_within(radius)
        elif look_alikes or not self.has_structure:
            radius = default_radius(self.bits)
        folder = None if reference is None else os.path.abspath(os.fsencode(reference))  # noqa: PTH100
        with self._store.reading():
            return find_duplicates(
                self._store, radius, conditions(where), folder, on_progress, rotated=rotated
            )

    def set_distinct(self, one: str, other: str, *, are_distinct: bool = True) -> None:
        """Remember that two items are not duplicates; `duplicates` keeps them apart.

        Holds for their images: until one of them is replaced or removed.

        Args:
            one: key of an item.
            other: key of another item.
            are_distinct: False forgets it.

        Raises:
            KeyError: no item has this key.
            GalleryError: their files are identical, or the gallery cannot be written.
        """
        with self._store.writing():
            names = [
                image_identity(item.key, item.file.content if item.file else None, item.code)
                for item in map(self._store.get, (one, other))
            ]
            if names[0] == names[1]:
                raise GalleryError(
                    f"{self.path}: {one!r} and {other!r} are identical files, which cannot be "
                    "called distinct"
                )
            self._store.set_distinct(names[0], names[1], are_distinct=are_distinct)

    def explain(self, query: Source, key: str) -> Image.Image:
        """Draw why an item is near a query.

        The drawing shows both images with the network's attention, what their distance means, and
        their codes bit by bit. If the item's file is missing, it shows the stored data instead.

        Args:
            query: an image as `search` takes it, or the key of an item.
            key: key of the item to compare with.

        Returns:
            An RGB image, 872 pixels wide; save it with `.save("why.png")`.

        Raises:
            KeyError: no item has this key.
            ImageError: the query cannot be read.
            FingerprintMismatch: the encoder is not the gallery's model.
        """
        return explain(self._store, lambda: self.encoder, query, key)

    def compact(self) -> int:
        """Return the space of removed items to the disk; items and codes do not change.

        Requires as much free disk space as the gallery has, and no other writer.

        Returns:
            By how many bytes the file shrank.

        Raises:
            GalleryError: the file cannot be written, the disk is full, or a transaction is open.
        """
        return self._store.compact()

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy a snapshot of the gallery to a new file; others can read and write meanwhile.

        Args:
            path: the new gallery file; must not exist.

        Raises:
            GalleryError: `path` exists or cannot be written, or a transaction is open.
        """
        self._store.backup(gallery_path(path))

    def export_flat(
        self,
        path: str | os.PathLike[str],
        *,
        below: str | os.PathLike[str] | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Write a snapshot to a flat file, which `FlatGallery` and other languages search in place.

        Codes, boxes of looks, keys, metadata, adaptation and calibration; no paths of files,
        structural codes, properties, likely classes or thumbnails. Takes about 6 s for a million
        items, during which other threads wait for this object. A new file can be read by its owner
        only, like a gallery.

        Args:
            path: the flat file; replaces one of that name once the new one is whole, and no other
                kind of file.
            below: a folder; keys of files in it are written relative to it, so that the flat file
                does not reveal where it is. None writes keys as they are.
            on_progress: called with (done, total) items.

        Returns:
            The number of items.

        Raises:
            GalleryError: `path` is another kind of file, or cannot be written.
            ValueError: relative to `below`, two keys are the same.
            GalleryCorrupt: the gallery's file is damaged.
        """
        with self._store.reading():
            folder = "" if below is None else os.path.join(os.fspath(below), "")  # noqa: PTH118
            return export_flat(self._store, gallery_path(path), on_progress, folder)

    def transaction(self) -> AbstractContextManager[None]:
        """Make several calls atomic: an exception rolls back all of them.

        Use as `with gallery.transaction():`. Others cannot change what you read inside. Other
        writers and other threads have to wait, so encode images before, not inside.

        Raises:
            GalleryError: the file cannot be written; or a call inside failed and its exception was
                caught inside, after which all later writes in the transaction fail too.
        """
        return self._store.writing()

    def close(self) -> None:
        """Close the file. Later calls raise GalleryError.

        After items were removed, renamed or given other metadata, first compacts a file of up to
        64 MB, so that no removed byte is left in it; errors of that are ignored. Call `compact` for
        larger files.

        Raises:
            GalleryError: a transaction is open.
        """
        self._store.close()
        self._is_closed = True
        if self._folder is not None:
            self._folder.cleanup()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _model_file(self) -> str | None:
        """The path to remember of the model: None if none was loaded, "" for the default one."""
        if self._encoder is None:
            return None
        path = self._encoder.model.path
        return "" if path == DEFAULT_MODEL else str(path.absolute())

    def _adapted(self, encoded: Encoded) -> Encoded:
        """The encoder's result with this gallery's adaptation.

        Another process can adapt the gallery at any time: call this inside the snapshot or
        transaction that uses the codes.
        """
        with self._store.reading():
            return adapted(encoded, self._store.info["adaptation"], self.encoder)


def _as_dict(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The metadata argument as a dict; empty for None."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a dict, got {type(metadata).__name__}: {metadata!r}")
    return dict(metadata or {})
