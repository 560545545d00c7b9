"""The gallery: items, their codes, and the one model that the codes belong to.

Searches by key, code or image. Does not know transactions (store.py) or the file's format
(gallery_file.py), walk folders (sync.py), read images again (recoding.py) or draw (explain.py).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.arguments import check_array, code_length, radius_within
from bitgaze.encoding.calibration import Calibration
from bitgaze.encoding.contract import DEFAULT_MODEL, read_model
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import Source
from bitgaze.errors import FingerprintMismatch, GalleryError, ImageError
from bitgaze.gallery.adaptation import Adaptation, adapted
from bitgaze.gallery.duplicates import DuplicateGroup, default_radius, find_duplicates
from bitgaze.gallery.explain import explain
from bitgaze.gallery.file_format import ModelFacts
from bitgaze.gallery.filters import conditions
from bitgaze.gallery.items import Item
from bitgaze.gallery.search import Hit, SearchParams, nearest, ranked
from bitgaze.gallery.store import Store
from bitgaze.gallery.sync.report import SyncReport
from bitgaze.gallery.sync.sync import sync

Ranking = Literal["hamming", "asymmetric"]
Where = Mapping[str, Any]

# SQLite counts milliseconds in 31 bits.
_MAX_TIMEOUT_S = 1e6


class Gallery:
    """Images' codes in one file: add to it, search it, keep it.

    The codes are in memory and in the file; a change is in the file when the call returns. Any
    number of processes may read while one writes, and each sees a commit at its next call. A file
    that may only be read can be searched. Safe to use from several threads.

    Args:
        path: the file, by custom `*.bitgaze`.
        encoder: the model; by default the one that comes with bitgaze, read when first needed: to
            make a file, or to encode.
        bits: instead of a model: the gallery holds codes of your own, of so many bits (a multiple
            of 8, up to 1024): pHash, PDQ, ... `add_code` and `search_code` work with them.
        create: make the file where there is none; with False a missing file is an error.
        timeout_s: how long to wait for another process that is writing, in seconds.

    Raises:
        GalleryError: no such file or folder, not a gallery, locked, or of a newer format.
        GalleryCorrupt: the file is damaged.
        FingerprintMismatch: the gallery's codes are of another model than `encoder`, or not your
            own of so many `bits`.
        ValueError: `bits` that no code has, or beside an encoder; `timeout_s` below 0.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        bits: int | None = None,
        create: bool = True,
        timeout_s: float = 5.0,
    ) -> None:
        if encoder is not None and bits is not None:
            raise ValueError("give an encoder or bits, not both: the encoder tells the bits")
        if bits is not None:
            bits = code_length(bits)
        if not 0 <= timeout_s <= _MAX_TIMEOUT_S:
            raise ValueError(f"timeout_s is {timeout_s}, expected 0 to {_MAX_TIMEOUT_S:g}")
        self.path = Path(path).expanduser()
        self._encoder = encoder
        self._encoder_lock = threading.Lock()

        def facts() -> ModelFacts:
            if bits is not None:
                return ModelFacts("", "", bits, None)
            model = encoder.model if encoder is not None else read_model(DEFAULT_MODEL)
            contract = model.contract
            return ModelFacts(model.fingerprint, contract.name, contract.bits, contract.calibration)

        self._store = Store(self.path, facts if create else None, timeout_s)
        try:
            with self._store.reading():
                if encoder is not None:
                    self._check_fingerprint(encoder)
                if bits is not None and (self.fingerprint or self.bits != bits):
                    whose = f"of model {self.model_name!r}" if self.fingerprint else "your own"
                    raise FingerprintMismatch(
                        f"{self.path}: its codes are {whose} and have {self.bits} bits, expected "
                        f"your own of {bits} bits; open it without bits, or make another"
                    )
        except BaseException:
            self._store.close()
            raise

    @property
    def bits(self) -> int:
        """Length of the codes."""
        return self._store.index.bits

    @property
    def fingerprint(self) -> str | None:
        """Of the model that made the codes; None if they are your own."""
        return self._store.info["fingerprint"] or None

    @property
    def model_name(self) -> str | None:
        """Name of the model that made the codes; None if they are your own."""
        return self._store.info["model"] or None

    @property
    def adaptation(self) -> str | None:
        """Fingerprint of what `adapt` did to the codes, 64 hex digits; None if it did nothing.

        Only codes with the same `fingerprint` and the same adaptation can be compared.
        """
        with self._store.reading():
            adaptation: Adaptation | None = self._store.info["adaptation"]
            return None if adaptation is None else adaptation.fingerprint

    @property
    def calibration(self) -> Calibration | None:
        """What distances mean: by `adapt` where it was called, else as the model says, or None."""
        with self._store.reading():
            return self._store.calibration

    @property
    def encoder(self) -> Encoder:
        """The model that encodes images for this gallery.

        Raises:
            FingerprintMismatch: none was given, and the default one did not make these codes.
        """
        with self._encoder_lock:
            if self._encoder is None:
                if self.fingerprint is None:
                    raise FingerprintMismatch(
                        f"{self.path}: holds codes of your own and no model, so it takes codes "
                        "(add_code, search_code) and keys, not images"
                    )
                encoder = Encoder()
                self._check_fingerprint(encoder)
                self._encoder = encoder
            return self._encoder

    def __len__(self) -> int:
        with self._store.reading():
            return len(self._store.index)

    def __contains__(self, key: object) -> bool:
        with self._store.reading():
            return isinstance(key, str) and self._store.find(key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of their slots, as of this call."""
        with self._store.reading():
            return iter(self._store.keys())

    def get(self, key: str) -> Item:
        """The item with this key.

        Raises:
            KeyError: there is none.
            TypeError: a key that is not a str.
            GalleryCorrupt: the file is damaged.
        """
        with self._store.reading():
            return self._store.item(self._store.slot(key))

    def search(
        self,
        query: Source,
        k: int = 10,
        *,
        radius: int | None = None,
        where: Where | None = None,
        exclude_self: bool = False,
        ranking: Ranking = "hamming",
    ) -> list[Hit]:
        """The nearest items, exact.

        Args:
            query: an image as `bitgaze.encoding.images.load` takes it, or the key of an item. A str
                that is a key is taken as one, else as a path.
            k: at most so many hits, at least 1.
            radius: leave out what is farther than this Hamming distance.
            where: only among items whose metadata fulfil this, all of it: field to a value, or to
                operators: `{"album": "2024", "year": {">=": 2020, "<": 2024}}`. The operators are
                <, <=, >, >=, !=, in (a list), and like (a text with % for any characters and _ for
                one). A list in metadata fulfils what one of its elements does; a field that is
                absent equals None; "@key" stands for the key. The first search by a field reads it
                from all items, which takes seconds for a million; the next are fast.
            exclude_self: leave out the item whose key `query` is, or whose file it is a path of.
            ranking: "hamming" orders by distance. "asymmetric" orders the nearest by distance (all
                within `radius`, or else 10 k of them, and 100 at least) by the sum of the query's
                absolute hash values over the bits that differ: a bit that the query nearly had
                counts little. It finds more, and needs the image, not a key.

        Returns:
            Hits by ascending distance, or by that sum; what is equal, by distance and then in the
            gallery's order, that of `iter(gallery)`.

        Raises:
            ImageError: the query cannot be read.
            FingerprintMismatch: the query would be encoded by another model.
            TypeError: k or radius is not an integer, or the query is no image.
            ValueError: k below 1, radius below 0, another ranking, a key to be ranked
                "asymmetric", a `where` that says nothing sensible, or `exclude_self` with a query
                that is neither key nor path.
        """
        if ranking not in get_args(Ranking):
            raise ValueError(f"ranking is {ranking!r}, expected one of {get_args(Ranking)}")
        params = SearchParams(k, radius, conditions({} if where is None else where))
        if isinstance(query, str):
            with self._store.reading():  # one snapshot: codes of two adaptations must not meet
                if self._store.has(query):
                    if ranking == "asymmetric":
                        raise ValueError(
                            f"{query!r} is a key: of an item only the code is kept, and an "
                            "asymmetric ranking takes hash values; give the image, or rank by "
                            "hamming"
                        )
                    slot = self._store.slot(query)
                    codes = self._store.item(slot).code[None]
                    return nearest(self._store, codes, params, slot if exclude_self else None)[0]
        if exclude_self and not isinstance(query, str | os.PathLike):
            raise ValueError(
                f"exclude_self takes a key or a path, not {type(query).__name__}: bytes and pixels "
                "do not tell which item they are"
            )
        try:
            encoded = self._encode(query)
        except ImageError:
            if isinstance(query, str):
                _ = query in self  # raises where a damaged index has hidden the key
            raise
        with self._store.reading():
            encoded = self._adapted(encoded)
            exclude_slot = None
            if exclude_self and isinstance(query, str | os.PathLike):
                exclude_slot = self._slot_of_file(query)
            if ranking == "hamming":
                return nearest(self._store, encoded.codes, params, exclude_slot)[0]
            return ranked(self._store, encoded.codes[0], encoded.hashes[0], params, exclude_slot)

    def search_code(
        self,
        code: NDArray[np.uint8],
        k: int = 10,
        *,
        radius: int | None = None,
        where: Where | None = None,
    ) -> list[Hit]:
        """As `search`, with a code of this gallery, as `encode` gives it: uint8, (bits // 8,).

        Raises:
            TypeError: a code that is not uint8.
            ValueError: a code of another length, and as for `search`.
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
        """As `search`, with many queries at once, which is faster than one after the other.

        Args:
            codes: of this gallery, as `encode` gives them: uint8, (q, bits // 8).
            k: at most so many hits each.
            radius: as for `search`.
            where: as for `search`.

        Returns:
            The hits of each query, in the order of `codes`.

        Raises:
            TypeError: codes that are not uint8.
            ValueError: codes of another length, and as for `search`.
        """
        params = SearchParams(k, radius, conditions({} if where is None else where))
        with self._store.reading():
            return nearest(self._store, codes, params)

    def radius(self, false_match_rate: float = 1e-4) -> int:
        """The largest radius at which at most this share of unrelated images is found.

        Args:
            false_match_rate: above 0, below 1; times the number of items, it is how many strangers
                a search brings up.

        Raises:
            GalleryError: nothing is known of distances: codes of your own, or a model without a
                calibration, and `adapt` was not called.
            ValueError: a rate outside that, or smaller than what was measured can tell.
        """
        calibration = self.calibration
        if calibration is None:
            if self.model_name is None:
                raise GalleryError(
                    f"{self.path}: codes of your own do not say what distances mean; choose a "
                    "radius by those of pairs that you know"
                )
            raise GalleryError(
                f"{self.path}: model {self.model_name!r} does not say what distances mean; take a "
                "model that was calibrated, or adapt the gallery, which measures it"
            )
        return calibration.radius(false_match_rate)

    def encode(self, sources: Iterable[Source]) -> Encoded:
        """Images as this gallery codes them, for `search_code`, `upsert`, or work of your own.

        As `Encoder.encode`; in a gallery that was adapted, codes and hash values are the adapted
        ones, and of no use to others.
        """
        return self._adapted(self.encoder.encode(sources))

    def add(self, key: str, image: Source, metadata: Mapping[str, Any] | None = None) -> None:
        """Encode one image and keep its code under a key of your own.

        For a folder of images `sync` is faster, and remembers the files.

        Args:
            key: any text that is not taken yet.
            image: as `bitgaze.encoding.images.load` takes it.
            metadata: a dict that JSON can hold; `where` looks at it, and hits bring it along.

        Raises:
            GalleryError: the key is taken, or the file cannot be written.
            ImageError: the image cannot be read.
            TypeError: a key that is not a str, or metadata that JSON cannot hold.
        """
        with self._store.reading():
            self._store.check_free(key)  # before the work of encoding
        encoded = self._encode(image)
        with self.transaction():
            self._store.check_free(key)  # now that nobody else writes
            self.upsert([Item(key, self._adapted(encoded).codes[0], _object(metadata))])

    def add_code(
        self, key: str, code: NDArray[np.uint8], metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Keep a code under a key of your own; as `add`, without an image.

        Args:
            key: any text that is not taken yet.
            code: of this gallery, as `encode` gives it, or your own: uint8, (bits // 8,).
            metadata: a dict that JSON can hold; `where` looks at it, and hits bring it along.

        Raises:
            GalleryError: the key is taken, or the file cannot be written.
            TypeError: a key that is not a str, a code that is not uint8, or metadata that JSON
                cannot hold.
            ValueError: a code of another length, or a key that is not valid Unicode.
        """
        with self.transaction():
            self._store.check_free(key)
            self.upsert([Item(key, code, _object(metadata))])

    def upsert(self, items: Iterable[Item]) -> None:
        """Keep these items; one whose key is taken replaces the old one. All of them or none.

        Their codes are of this gallery, as `encode` gives them. What an item does not say is gone:
        to change one that sync looks after, without cutting it from its file, begin with
        `dataclasses.replace(gallery.get(key), ...)`.

        Raises:
            GalleryError: the file cannot be written, or an item's file belongs to another key.
            TypeError: a key that is not a str, a code that is not uint8, metadata that JSON cannot
                hold, or a file that is not as `FileState` says.
            ValueError: a code of another length, or a key that is not valid Unicode.
        """
        items = list(items)
        if not items:
            return
        with self._store.writing():
            for item in items:
                self._store.put(item)

    def set_metadata(self, key: str, metadata: Mapping[str, Any]) -> None:
        """Give an item other metadata, in place of all that it has.

        Raises:
            KeyError: an unknown key.
            TypeError: a key that is not a str, or metadata that JSON cannot hold.
            GalleryError: the file cannot be written.
        """
        if metadata is None:  # nothing given is not nothing to keep
            raise TypeError("metadata is a dict, not NoneType; {} takes all away")
        with self._store.writing():
            item = self._store.item(self._store.slot(key))
            self._store.put(replace(item, metadata=_object(metadata)))

    def remove(self, *keys: str) -> None:
        """Forget these items, all or none; their keys and codes are overwritten in the file.

        If another process is reading or writing at that moment, the log beside the file may hold
        them until the next removal, or until nobody has the gallery open. Copies that SQLite made
        of a row when it moved it are in the file until `compact`, which `close` does, too, in a
        file of up to 64 MB.

        Raises:
            KeyError: an unknown key.
            TypeError: a key that is not a str.
            GalleryError: the file cannot be written.
        """
        if not keys:
            return
        with self._store.writing():
            for key in keys:
                self._store.delete(key)

    def rename(self, key: str, new_key: str) -> None:
        """Give an item another key. One that sync looks after still follows its file.

        Raises:
            KeyError: no item has that key.
            TypeError: a key that is not a str.
            GalleryError: the new key is taken, or the file cannot be written.
            ValueError: a new key that is not valid Unicode.
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
        allow_empty: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> SyncReport:
        """Make the gallery match the images below folders: add, update, rename, remove.

        Only what has changed since the last time is read. Keys are absolute paths; items added by
        hand, and those of other folders, stay as they are. `bitgaze.sync.sync` says what each
        argument does and what is raised.
        """
        return sync(
            self._store,
            lambda: self.encoder,
            *folders,
            include=include,
            exclude=exclude,
            metadata=metadata,
            dry_run=dry_run,
            allow_empty=allow_empty,
            on_progress=on_progress,
        )

    def adapt(
        self,
        images: Callable[[str], Source] | None = None,
        *,
        reset: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Code the gallery's images anew, in a way that is fitted to them.

        A model's bits are balanced on the images it was made with; on others many say little.
        This learns from the gallery's own images, without labels, where to cut and how to turn
        their hash values, and measures what distances then mean. From then on every image that
        is added or searched for is coded so. The more images the better; repeat it when the
        gallery has grown to several times its size.

        All images are read and encoded again, and 200 of them in ten altered versions each. The
        codes change in one transaction at the end, the old ones are overwritten as by `remove`.
        Others may write meanwhile. If an image cannot be read as it was when it was added, nothing
        is changed.

        `calibration` is measured too: `duplicate` with the altered versions, `false_match` on pairs
        of the gallery's images. Some of those may be related, so the true rates are lower. What
        cannot be told without labels, `kind`, is carried over from the model's: a distance takes
        the probability that the model gives where as many unrelated pairs are as near.

        Args:
            images: gives the image of an item that was added by hand, by its key:
                `lambda key: folder / key`, or `images.__getitem__` of a dict.
            reset: undo it: codes and calibration as the model itself gives them.
            on_progress: called with (done, total) images as they are encoded.

        Returns:
            How many items were coded anew: all, or 0 if there was nothing to undo.

        Raises:
            GalleryError: there are fewer than bits / 2 different images; an image is gone,
                changed or unreadable, or not given; or the file cannot be written.
            FingerprintMismatch: the encoder is of another model than the codes.
        """
        from bitgaze.gallery.reencode import recode

        if reset and self.adaptation is None:
            return 0
        return recode(self._store, self.encoder, images, reset=reset, on_progress=on_progress)

    def duplicates(
        self,
        radius: int | None = None,
        *,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[DuplicateGroup]:
        """Groups of images that are nearly the same; exact: every pair is looked at.

        Two items within the radius are in one group, and so is what is near to either: a row of
        images of which each is like the next may join what is unlike. Nothing is deleted.

        Args:
            radius: Hamming distance; by default bits / 12. The general model's 10 bits found 98 %
                of 125 photographs again that were made smaller, 96 % saved anew, 86 % cropped; of
                807 different images they joined two, both of a cat.
            on_progress: called with (done, total) different codes; it cannot write to the gallery.

        Returns:
            Groups of two and more, in the order of each one's first item.

        Raises:
            TypeError: radius is no integer.
            ValueError: radius below 0.
        """
        radius = default_radius(self.bits) if radius is None else radius_within(radius)
        with self._store.reading():
            return find_duplicates(self._store, radius, on_progress)

    def explain(self, query: Source, key: str) -> Image.Image:
        """A drawing of why an item is as near to a query as it is.

        Both images with the network's attention over them, what the distance means, and their
        codes bit by bit. Where the item's file has gone, what is stored of it is shown.

        Args:
            query: an image as `search` takes it, or a key.
            key: of the item.

        Returns:
            An RGB image, 872 pixels wide: `.save("why.png")`.

        Raises:
            KeyError: no item has that key.
            ImageError: the query cannot be read.
        """
        return explain(self._store, self.encode, query, key)

    def compact(self) -> int:
        """Give the room of what was removed back to the disk; items and codes stay as they are.

        Needs as much free disk as the gallery takes, and nobody else writing.

        Returns:
            How many bytes smaller the file became.

        Raises:
            GalleryError: the file cannot be written, the disk is full, or in a transaction.
        """
        return self._store.compact()

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the gallery as it is at this moment; others may read and write meanwhile.

        Args:
            path: the new file, itself a gallery; it must not exist.

        Raises:
            GalleryError: it exists, or cannot be written, or in a transaction.
        """
        self._store.backup(Path(path).expanduser())

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several calls as one change: the file gets all of them or, after an exception, none.

        What is read inside is not changed by others before the end. Other writers, and other
        threads, wait meanwhile: encode before, not inside.

        Raises:
            GalleryError: the file cannot be written, or a call inside failed and its exception was
                caught there; later writes inside are refused as well.
        """
        with self._store.transaction():
            yield

    def close(self) -> None:
        """Release the file. Later calls raise GalleryError.

        After a removal, a rename or other metadata it compacts a file of up to 64 MB first, unless
        that fails: what was removed is then in none of its bytes. A larger one is left to you, to
        `compact`.
        """
        self._store.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_fingerprint(self, encoder: Encoder) -> None:
        if encoder.fingerprint != self.fingerprint:
            whose = (
                "your own, and no model's"
                if self.fingerprint is None
                else f"of model {self.model_name!r} ({self.fingerprint[:12]})"
            )
            raise FingerprintMismatch(
                f"{self.path}: its codes are {whose}, not of {encoder.contract.name!r} "
                f"({encoder.fingerprint[:12]}) in {encoder.model.path}; "
                "open it with the model that made it, or index the images into a new gallery"
            )

    def _encode(self, image: Source) -> Encoded:
        """The model's result for one image, before adaptation."""
        encoded = self.encoder.encode([image])
        if encoded.errors:
            raise encoded.errors[0]
        return encoded

    def _adapted(self, encoded: Encoded) -> Encoded:
        """The model's result with the codes and hash values of this gallery as it is now.

        Another process may adapt the gallery at any time: call it inside the same snapshot or
        transaction that uses the codes.
        """
        with self._store.reading():
            adaptation: Adaptation | None = self._store.info["adaptation"]
        if adaptation is None:  # an encoder is not needed, and may be absent
            return encoded
        return adapted(encoded, adaptation, self.encoder.contract.tolerance)

    def _slot_of_file(self, path: str | os.PathLike[str]) -> int | None:
        """The slot of the item that sync made from a file, or None."""
        # As sync names it, or where links lead.
        for absolute in (os.path.abspath, os.path.realpath):
            item = self._store.item_of_file(absolute(os.fsencode(path)))
            if item is not None:
                return self._store.slot(item.key)
        return None


def _object(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Metadata as given, None for nothing."""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is a dict, not {type(metadata).__name__}: {metadata!r}")
    return dict(metadata or {})
