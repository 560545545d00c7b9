"""The gallery: items, their codes, and the one model that the codes belong to.

Searches by key or picture and keeps every change in the file. Does not know the file's format
(gallery_file.py), walk folders (sync.py), read pictures again (recoding.py) or draw (page.py).
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bitgaze import gallery_file
from bitgaze.adaptation import Adaptation, pack
from bitgaze.calibration import Calibration, at_odds
from bitgaze.contract import DEFAULT_MODEL, Model, read_model
from bitgaze.encoder import Encoded, Encoder
from bitgaze.errors import FingerprintMismatch, GalleryCorrupt, GalleryError
from bitgaze.gallery_file import CHUNK_CODES, FileState, Item
from bitgaze.hamming import HammingIndex
from bitgaze.images import Source
from bitgaze.ranking import asymmetric_scores

if TYPE_CHECKING:
    from bitgaze.sync import SyncReport


Ranking = Literal["hamming", "asymmetric"]

# Of the nearest by Hamming distance, so many times k are ranked by hash values, and never fewer
# than the second number. On CIFAR-10 and Fashion-MNIST with k = 10, 100 of 4,100 items gave the
# precision of all of them to .002, 30 to .005.
_CANDIDATES_PER_HIT, _FEWEST_CANDIDATES = 10, 100


# Of the example pictures' 25 subjects, a picture shares its own with one in twenty others.
_KIND_ODDS = 1 / 19


@dataclass(frozen=True)
class Hit:
    """One answer of a search.

    The probabilities are those of `bitgaze.calibration.Calibration` at this distance, at the odds
    of a search: that one item of the gallery is the same picture is as likely as that none is, and
    one item in twenty shows the same kind of thing. For other odds start from
    `Gallery.calibration`.

    Attributes:
        key: of the item.
        distance: Hamming distance to the query's code, 0..bits.
        probability: that query and hit show the same kind of thing, or None where the model was not
            calibrated with labels.
        duplicate: that they are the same picture, altered: resized, compressed, cropped, ...; or
            None where nothing was calibrated.
        metadata: of the item.
        path: of the item's file, fit for `open`, or None for an item added by hand.
    """

    key: str
    distance: int
    probability: float | None
    duplicate: float | None
    metadata: dict[str, Any]
    path: str | None


class Gallery:
    """Pictures' codes in one file: add to it, search it, keep it.

    The codes are in memory and in the file; a change is in the file when the call returns. Any
    number of processes may read while one writes, and each sees a commit at its next call. A file
    that may only be read can be searched. Safe to use from several threads.

    Args:
        path: the file, by custom `*.bitgaze`.
        encoder: the model; by default the one that comes with bitgaze, read when first needed: to
            make a file, or to encode.
        create: make the file where there is none; with False a missing file is an error.

    Raises:
        GalleryError: no such file or folder, not a gallery, locked, or of a newer format.
        GalleryCorrupt: the file is damaged.
        FingerprintMismatch: the gallery's codes are of another model than `encoder`.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, encoder: Encoder | None = None, create: bool = True
    ) -> None:
        self.path = Path(path).expanduser()
        self._lock = threading.RLock()
        self._encoder = encoder
        self._index: HammingIndex
        self._info: dict[str, Any]

        def model() -> Model:
            return encoder.model if encoder is not None else read_model(DEFAULT_MODEL)

        self._open(model if create else None)
        try:
            with self._reading():
                if encoder is not None:
                    self._check_fingerprint(encoder)
        except BaseException:
            self._db.close()
            raise

    def _open(self, create_for: Callable[[], Model] | None) -> None:
        with gallery_file.translated_errors(self.path):
            self._frozen = gallery_file.find_frozen(self.path)
            is_frozen = self._frozen is not None
            self._db = gallery_file.connect(self.path, create_for, is_frozen=is_frozen)
        self._data_version = -1

    @property
    def bits(self) -> int:
        """Length of the codes."""
        return self._index.bits

    @property
    def fingerprint(self) -> str:
        """Of the model that made the codes."""
        return str(self._info["fingerprint"])

    @property
    def model_name(self) -> str:
        """Name of the model that made the codes."""
        return str(self._info["model"])

    @property
    def adaptation(self) -> str | None:
        """Fingerprint of what `adapt` did to the codes, 64 hex digits; None if it did nothing.

        Only codes with the same `fingerprint` and the same adaptation can be compared.
        """
        with self._reading():
            adaptation: Adaptation | None = self._info["adaptation"]
            return None if adaptation is None else adaptation.fingerprint

    @property
    def calibration(self) -> Calibration | None:
        """What distances mean: by `adapt` where it was called, else as the model says, or None."""
        with self._reading():
            is_adapted = self._info["adaptation"] is not None
            found: Calibration | None = self._info[
                "adapted_calibration" if is_adapted else "calibration"
            ]
            return found

    @property
    def encoder(self) -> Encoder:
        """The model that encodes pictures for this gallery.

        Raises:
            FingerprintMismatch: none was given, and the default one did not make these codes.
        """
        with self._lock:
            if self._encoder is None:
                encoder = Encoder()
                self._check_fingerprint(encoder)
                self._encoder = encoder
            return self._encoder

    def __len__(self) -> int:
        with self._reading():
            return len(self._index)

    def __contains__(self, key: object) -> bool:
        with self._reading():
            return isinstance(key, str) and gallery_file.find_slot(self._db, key) is not None

    def __iter__(self) -> Iterator[str]:
        """The keys, in the order of their slots, as of this call."""
        with self._reading():
            return iter(gallery_file.read_keys(self._db))

    def get(self, key: str) -> Item:
        """The item with this key.

        Raises:
            KeyError: there is none.
            TypeError: a key that is not a str.
            GalleryCorrupt: the file is damaged.
        """
        with self._reading():
            return self._item(self._known_slot(key))

    def search(
        self,
        query: Source,
        k: int = 10,
        *,
        radius: int | None = None,
        ranking: Ranking = "hamming",
    ) -> list[Hit]:
        """The nearest items, exact.

        Args:
            query: a picture as `bitgaze.images.load` takes it, or the key of an item, which is then
                among its own hits. A str that is a key is taken as one, else as a path.
            k: at most so many hits, at least 1.
            radius: leave out what is farther than this Hamming distance.
            ranking: "hamming" orders by distance. "asymmetric" orders the nearest by distance (all
                within `radius`, or else 10 k of them, and 100 at least) by the sum of the query's
                absolute hash values over the bits that differ: a bit that the query nearly had
                counts little. It finds more, and needs the picture, not a key.

        Returns:
            Hits by ascending distance, or by that sum; what is equal, by distance and then in the
            order of slots.

        Raises:
            ImageError: the query cannot be read.
            FingerprintMismatch: the query would be encoded by another model.
            ValueError: k below 1, radius below 0, another ranking, or a key to be ranked
                "asymmetric".
        """
        if radius is not None and radius < 0:
            raise ValueError(f"radius is {radius}, expected at least 0")
        if ranking not in get_args(Ranking):
            raise ValueError(f"ranking is {ranking!r}, expected one of {get_args(Ranking)}")
        if isinstance(query, str) and query in self:
            if ranking == "asymmetric":
                raise ValueError(
                    f"{query!r} is a key: of an item only the code is kept, and an asymmetric "
                    "ranking takes hash values; give the picture, or rank by hamming"
                )
            with self._reading():  # one snapshot: codes of two adaptations must not meet
                return self.search_code(self.get(query).code, k, radius=radius)
        encoded = self._encode(query)
        with self._reading():
            encoded = self.adapted(encoded)
            if ranking == "hamming":
                return self.search_code(encoded.codes[0], k, radius=radius)
            return self._ranked(encoded.codes[0], encoded.hashes[0], k, radius)

    def search_code(
        self, code: NDArray[np.uint8], k: int = 10, *, radius: int | None = None
    ) -> list[Hit]:
        """As `search`, with a code of this gallery, as `encode` gives it: uint8, (bits // 8,)."""
        with self._reading():
            nearest = self._index.range_search(
                code[None], self.bits if radius is None else radius, k=k
            )
            _, distances, slots = nearest
            return [
                self._hit(int(slot), int(distance))
                for distance, slot in zip(distances, slots, strict=True)
            ]

    def radius(self, false_match_rate: float = 1e-4) -> int:
        """The largest radius at which at most this share of unrelated pictures is found.

        Args:
            false_match_rate: above 0, below 1; times the number of items, it is how many strangers
                a search brings up.

        Raises:
            GalleryError: nothing is known of distances.
            ValueError: a rate outside that, or smaller than what was measured can tell.
        """
        calibration = self.calibration
        if calibration is None:
            raise GalleryError(
                f"{self.path}: model {self.model_name!r} does not say what distances mean; "
                "take one that was calibrated, or adapt the gallery, which measures it"
            )
        return calibration.radius(false_match_rate)

    def encode(self, sources: Iterable[Source]) -> Encoded:
        """Pictures as this gallery codes them, for `search_code`, `upsert`, or work of your own.

        As `Encoder.encode`; in a gallery that was adapted, codes and hash values are the adapted
        ones, and of no use to others.
        """
        return self.adapted(self.encoder.encode(sources))

    def adapted(self, encoded: Encoded) -> Encoded:
        """What the model says of pictures, with codes and hash values as this gallery has them now.

        For who encodes first and writes in a transaction: another process may adapt the gallery in
        between.
        """
        with self._reading():
            adaptation: Adaptation | None = self._info["adaptation"]
        if adaptation is None:
            return encoded
        hashes = adaptation.apply(encoded.hashes)
        # What each value can be off by, when all that it is a sum of are.
        tolerance = self.encoder.contract.tolerance * np.abs(adaptation.rotation).sum(axis=0)
        stable = np.abs(hashes) > tolerance
        unread = list(encoded.errors)
        hashes[unread], stable[unread] = 0, False
        return replace(encoded, codes=pack(hashes), hashes=hashes, stable=stable)

    def add(self, key: str, image: Source, metadata: Mapping[str, Any] | None = None) -> None:
        """Encode one picture and keep its code under a key of your own.

        For a folder of pictures `sync` is faster, and remembers the files.

        Args:
            key: any text that is not taken yet.
            image: as `bitgaze.images.load` takes it.
            metadata: a JSON object.

        Raises:
            GalleryError: the key is taken, or the file cannot be written.
            ImageError: the picture cannot be read.
            TypeError: a key that is not a str, or metadata that JSON cannot hold.
        """
        self._check_free(key)  # before the work of encoding
        encoded = self._encode(image)
        with self.transaction():
            self._check_free(key)  # now that nobody else writes
            self.upsert([Item(key, self.adapted(encoded).codes[0], dict(metadata or {}))])

    def upsert(self, items: Iterable[Item]) -> None:
        """Keep these items; one whose key is taken replaces the old one. All of them or none.

        Their codes are of this gallery, as `encode` gives them.

        Raises:
            GalleryError: the file cannot be written, or an item's file belongs to another key.
            TypeError: a key that is not a str, a code that is not uint8, or metadata that JSON
                cannot hold.
            ValueError: a code of another length, or a key that is not valid Unicode.
        """
        items = list(items)
        if not items:
            return
        with self._writing() as changed_chunks:
            for item in items:
                slot = gallery_file.find_slot(self._db, item.key)
                if slot is None:
                    slot = len(self._index)
                    self._index.add(item.code[None])
                else:
                    self._index.replace(slot, item.code)
                gallery_file.write_item(self._db, slot, item)
                changed_chunks.add(slot // CHUNK_CODES)

    def remove(self, *keys: str) -> None:
        """Forget these items, all or none; their keys and codes are overwritten in the file.

        If another process is reading or writing at that moment, the log beside the file may hold
        them until the next removal, or until nobody has the gallery open.

        Raises:
            KeyError: an unknown key.
            TypeError: a key that is not a str.
            GalleryError: the file cannot be written.
        """
        if not keys:
            return
        with self._writing() as changed_chunks:
            for key in keys:
                slot, last = self._known_slot(key), len(self._index) - 1
                gallery_file.delete_item(self._db, slot, last)
                self._index.remove(slot)
                changed_chunks.update((slot // CHUNK_CODES, last // CHUNK_CODES))
            self._has_removed = True

    def move(self, *moves: tuple[str, str, FileState | None]) -> None:
        """Give items other keys and files; code and metadata stay. All of them or none.

        Args:
            moves: (key, new key, file) of each, done at once: two items may change places.

        Raises:
            KeyError: no item has that key.
            TypeError: a key that is not a str.
            GalleryError: a new key is taken, or the file cannot be written.
            ValueError: a key is moved twice.
        """
        if not moves:
            return
        with self._writing():
            slots = [self._known_slot(key) for key, _, _ in moves]
            if len(set(slots)) < len(slots):
                raise ValueError("a key is moved twice")
            items = [self._item(slot) for slot in slots]
            for slot in slots:
                gallery_file.release_key(self._db, slot)
            for slot, item, (_, new_key, file) in zip(slots, items, moves, strict=True):
                self._check_free(new_key)
                moved = Item(new_key, item.code, item.metadata, file)
                gallery_file.write_item(self._db, slot, moved)

    def sync(
        self,
        folder: str | os.PathLike[str],
        *,
        allow_empty: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> "SyncReport":
        """Make the gallery match a folder; see `bitgaze.sync.sync`."""
        from bitgaze.sync import sync

        return sync(self, folder, allow_empty=allow_empty, on_progress=on_progress)

    def adapt(
        self,
        images: Callable[[str], Source] | None = None,
        *,
        reset: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> int:
        """Code the gallery's pictures anew, in a way that is fitted to them.

        A model's bits are balanced on the pictures it was made with; on others many say little.
        This learns from the gallery's own pictures, without labels, where to cut and how to turn
        their hash values, and measures what distances then mean. From then on every picture that
        is added or searched for is coded so. The more pictures the better; repeat it when the
        gallery has grown to several times its size.

        All pictures are read and encoded again, and 200 of them in ten altered versions each. The
        codes change in one transaction at the end, the old ones are overwritten as by `remove`.
        Others may write meanwhile. If a picture cannot be read as it was when it was added, nothing
        is changed.

        `calibration` is measured too: `duplicate` with the altered versions, `false_match` on pairs
        of the gallery's pictures. Some of those may be related, so the true rates are lower. What
        cannot be told without labels, `kind`, is carried over from the model's: a distance takes
        the probability that the model gives where as many unrelated pairs are as near.

        Args:
            images: gives the picture of an item that was added by hand, by its key:
                `lambda key: folder / key`, or `pictures.__getitem__` of a dict.
            reset: undo it: codes and calibration as the model itself gives them.
            on_progress: called with (done, total) pictures as they are encoded.

        Returns:
            How many items were coded anew: all, or 0 if there was nothing to undo.

        Raises:
            GalleryError: there are fewer than bits / 2 different pictures; a picture is gone,
                changed or unreadable, or not given; or the file cannot be written.
            FingerprintMismatch: the encoder is of another model than the codes.
        """
        from bitgaze.recoding import Recoding

        if reset and self.adaptation is None:
            return 0
        recoding = Recoding(self.path, self.encoder, images, on_progress)
        with self._reading():
            pictures = gallery_file.read_pictures(self._db, self.path, self._index)
            model_calibration = self._info["calibration"]
        recoding.check(pictures)
        if not reset:
            recoding.learn(pictures, model_calibration)
        while True:
            recoding.encode(pictures)
            with self._writing() as changed_chunks:
                # Others may have written: what came or changed meanwhile takes another round.
                pictures = gallery_file.read_pictures(self._db, self.path, self._index)
                codes = recoding.codes(pictures)
                if codes is not None:
                    self._index = HammingIndex(self.bits)
                    self._index.add(codes)
                    changed_chunks.update(range(-(-len(codes) // CHUNK_CODES)))
                    gallery_file.write_adaptation(
                        self._db, recoding.adaptation, recoding.calibration
                    )
                    self._info = gallery_file.read_info(self._db, self.path)
                    self._has_removed = True
                    return len(codes)

    def files(self, folder: str | os.PathLike[str]) -> dict[str, FileState]:
        """Of the items that sync looks after below a folder: key to file."""
        prefix = os.fsencode(os.path.join(os.path.abspath(folder), ""))  # noqa: PTH100, PTH118
        with self._reading():
            return gallery_file.read_files(self._db, prefix)

    def item_of_file(self, path: str | bytes) -> Item | None:
        """The item that sync made from the file with this absolute path, or None."""
        with self._reading():
            slot = gallery_file.find_file(self._db, os.fsencode(path))
            if slot is None:
                return None
            item = self._item(slot)
            if item.path != os.fsdecode(path):
                raise GalleryCorrupt(f"{self.path}: its path index is damaged at {item.key!r}")
            return item

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Several calls as one change: the file gets all of them or, after an exception, none.

        What is read inside is not changed by others before the end. Other writers, and other
        threads, wait meanwhile: encode before, not inside.

        Raises:
            GalleryError: the file cannot be written, or a call inside failed and its exception was
                caught there.
        """
        with self._lock:
            with gallery_file.translated_errors(self.path):
                is_part = self._db.in_transaction
            try:
                if not is_part:
                    self._begin()
                yield
                if not is_part:
                    self._commit()
            except BaseException:
                # The codes in memory ran ahead of the file: load them again.
                self._data_version = -1
                if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Release the file. Later calls raise GalleryError."""
        with self._lock:
            self._frozen = None  # else a change of the file would open it again
            self._db.close()

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _is_thawed(self) -> bool:
        """Whether a file that nobody could have written has been written."""
        return self._frozen is not None and self._frozen != gallery_file.find_frozen(self.path)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One snapshot of the file, with the codes in memory as of that snapshot."""
        with self._lock, gallery_file.translated_errors(self.path):
            if self._db.in_transaction:
                yield
                return
            if self._is_thawed():
                self._db.close()
                self._open(None)
            self._db.execute("BEGIN")
            try:
                self._refresh()
                yield
            finally:
                self._db.execute("COMMIT")
            if self._is_thawed():
                raise GalleryError(f"{self.path}: written while it was being read; try again")

    @contextmanager
    def _writing(self) -> Iterator[set[int]]:
        """One transaction, or a part of one. Yields a set for the chunks whose codes change."""
        with gallery_file.translated_errors(self.path), self.transaction():
            yield self._changed_chunks

    def _begin(self) -> None:
        with gallery_file.translated_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            self._changed_chunks: set[int] = set()
            self._has_removed = False
            self._refresh()

    def _commit(self) -> None:
        with gallery_file.translated_errors(self.path):
            if not self._db.in_transaction:
                raise GalleryError(f"{self.path}: a call in the transaction failed; it was undone")
            for n in self._changed_chunks:
                codes = self._index[n * CHUNK_CODES : (n + 1) * CHUNK_CODES]
                gallery_file.write_chunk(self._db, n, codes)
            self._db.execute("COMMIT")
            if self._has_removed:
                gallery_file.write_back(self._db)

    def _refresh(self) -> None:
        """Load what another process has committed since the last look."""
        version = gallery_file.data_version(self._db)
        if version != self._data_version:
            self._info = gallery_file.read_info(self._db, self.path)
            self._index = gallery_file.read_codes(self._db, self.path, self._info["bits"])
            self._data_version = version

    def _check_fingerprint(self, encoder: Encoder) -> None:
        if encoder.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"{self.path}: its codes are of model {self.model_name!r} "
                f"({self.fingerprint[:12]}), not of {encoder.contract.name!r} "
                f"({encoder.fingerprint[:12]}) in {encoder.model.path}; "
                "open it with the model that made it, or index the pictures into a new gallery"
            )

    def _encode(self, image: Source) -> Encoded:
        """What the model says of one picture; `adapted` makes it the gallery's."""
        encoded = self.encoder.encode([image])
        if encoded.errors:
            raise encoded.errors[0]
        return encoded

    def _ranked(
        self, code: NDArray[np.uint8], values: NDArray[np.float32], k: int, radius: int | None
    ) -> list[Hit]:
        """The k best by asymmetric score among candidates by Hamming distance."""
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if radius is None:
            count = max(_FEWEST_CANDIDATES, _CANDIDATES_PER_HIT * k)
            _, distances, slots = self._index.range_search(code[None], self.bits, k=count)
        else:
            _, distances, slots = self._index.range_search(code[None], radius)
        # Candidates come by distance, then slot; a stable sort keeps that where scores are equal.
        best = np.argsort(asymmetric_scores(values, self._index[slots]), kind="stable")[:k]
        return [self._hit(int(slots[row]), int(distances[row])) for row in best]

    def _check_free(self, key: str) -> None:
        with self._reading():
            if gallery_file.find_slot(self._db, key) is not None:
                raise GalleryError(f"{self.path}: key {key!r} is taken; remove it first")

    def _known_slot(self, key: str) -> int:
        slot = gallery_file.find_slot(self._db, key)
        # A miss is rare enough to look at every item.
        is_missing = slot is None and gallery_file.find_slot(self._db, key, use_index=False) is None
        if is_missing:
            raise KeyError(f"{self.path} holds no item {key!r}")
        if slot is None or gallery_file.read_key(self._db, slot) != key:
            raise GalleryCorrupt(f"{self.path}: its key index is damaged at {key!r}")
        return slot

    def _item(self, slot: int) -> Item:
        if not 0 <= slot < len(self._index):
            raise GalleryCorrupt(f"{self.path}: slot {slot} of {len(self._index)} in its key index")
        return gallery_file.read_item(self._db, self.path, slot, self._index[slot])

    def _hit(self, slot: int, distance: int) -> Hit:
        item = self._item(slot)
        calibration = self.calibration
        kind = duplicate = None
        if calibration is not None:
            duplicate = at_odds(calibration.duplicate[distance], 1 / len(self._index))
            if calibration.kind:
                kind = at_odds(calibration.kind[distance], _KIND_ODDS)
        return Hit(item.key, distance, kind, duplicate, item.metadata, item.path)
