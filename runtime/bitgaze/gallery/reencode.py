"""Re-encode a gallery's images: fit an adaptation to them, or return to the model's own codes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.alterations import altered
from bitgaze.encoding.calibration import Calibration, calibrate
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import ImageFile, Source, fitted, printable
from bitgaze.errors import GalleryError, ImageError
from bitgaze.gallery.adaptation import Adaptation, adapted_codes, fit, with_kind_of
from bitgaze.gallery.items import CHANGED, FileState, ImageRef
from bitgaze.gallery.search import code_distances
from bitgaze.gallery.store import Store

# Images to fit an adaptation to; their hash values are held in memory. On CIFAR-10 and
# Fashion-MNIST each doubling still gained: 4,096 images had .006 more mAP than 2,048.
_MAX_FITTED = 20_000
# Images encoded at a time.
_BATCH = 512
# Images to alter in ten ways each: 2,000 encodings, and as many pairs of duplicates.
_MAX_ALTERED = 200
# Images whose pairs count as unrelated: 2 million pairs.
_MAX_UNRELATED = 2_000
# Sides of an image to be altered.
_MAX_ALTERED_PX, _MIN_ALTERED_PX = 1024, 8
_MAX_NAMED = 5


def min_images(bits: int) -> int:
    """How many different images fitting an adaptation to codes of this length requires.

    Measured at 128 bits, on images like those that the model was made with, which gain least: 8
    images cost .002 mAP on average, 32 gained in each of eight samples, 64 gained .010 or more.
    """
    return bits // 2


def reencode(
    store: Store,
    encoder: Encoder,
    images: Callable[[str], Source] | None,
    *,
    reset: bool,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Recompute the codes of all items; see `Gallery.adapt`.

    Args:
        store: the gallery's file.
        encoder: the gallery's model.
        images: returns the image of an item added by hand, by its key.
        reset: return to the model's own codes instead of adapting.
        on_progress: called with (done, total) images as they are encoded.

    Returns:
        The number of items.
    """
    reencoder = _Reencoder(store.path, encoder, images, on_progress)
    with store.reading():
        refs = store.image_refs()
        model_calibration = store.info["calibration"]
    reencoder.check(refs)
    if not reset:
        reencoder.fit(refs, model_calibration)
    while True:
        reencoder.encode(refs)
        with store.writing():
            # Images that others added or changed in the meantime take another round.
            refs = store.image_refs()
            codes = reencoder.codes(refs)
            if codes is not None:
                store.replace_codes(codes, reencoder.adaptation, reencoder.calibration)
                return len(codes)


class _Reencoder:
    """Computes new codes of a gallery's images and holds them by the images' identities.

    Args:
        gallery: path of the gallery, for messages.
        encoder: the gallery's model.
        images: returns the image of an item added by hand, by its key.
        on_progress: called with (done, total) images as they are encoded.

    Attributes:
        adaptation: set by `fit`; None for the model's own codes.
        calibration: what distances between the adapted codes mean, or None.
    """

    def __init__(
        self,
        gallery: Path,
        encoder: Encoder,
        images: Callable[[str], Source] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.adaptation: Adaptation | None = None
        self.calibration: Calibration | None = None
        self._gallery = gallery
        self._encoder = encoder
        self._images = images
        self._on_progress = on_progress
        self._codes: dict[bytes, bytes] = {}  # by ImageRef.identity
        self._done = self._total = 0

    def check(self, refs: Sequence[ImageRef]) -> None:
        """Find missing images early, without opening a file.

        Raises:
            GalleryError: images are missing or have another size than before, or items were added
                by hand and `images` is None.
        """
        by_hand = [ref.key for ref in refs if ref.file is None]
        if by_hand and self._images is None:
            raise self._images_required(by_hand)
        self._refuse({ref.key: why for ref in refs if (why := _reason_missing(ref)) is not None})

    def fit(self, refs: Sequence[ImageRef], model_calibration: Calibration | None) -> None:
        """Fit the adaptation, and measure what distances between adapted codes mean.

        Args:
            refs: the gallery's images.
            model_calibration: of the model's own codes, or None.

        Raises:
            GalleryError: there are too few images, or an image has changed.
        """
        distinct = list({ref.identity: ref for ref in refs}.values())
        required = min_images(self._encoder.bits)
        if len(distinct) < required:
            raise GalleryError(
                f"{self._gallery}: holds {len(distinct)} different images, but adapting codes of "
                f"{self._encoder.bits} bits requires at least {required}; add more images"
            )
        order = np.random.default_rng(0).permutation(len(distinct))[:_MAX_FITTED]
        sample = [distinct[row] for row in order]
        self._total = len(distinct) + 10 * min(len(sample), _MAX_ALTERED)
        hashes = np.concatenate(list(self._hashes(sample)))
        self.adaptation = fit(hashes)
        codes = adapted_codes(hashes, self.adaptation)
        self._store_codes(sample, codes)
        self.calibration = self._calibrate(sample[:_MAX_ALTERED], codes, model_calibration)

    def encode(self, refs: Sequence[ImageRef]) -> None:
        """Compute the codes of images that have none yet.

        Raises:
            GalleryError: an image has changed.
        """
        todo = list({ref.identity: ref for ref in refs if ref.identity not in self._codes}.values())
        self._total = self._done + len(todo)
        for n, hashes in enumerate(self._hashes(todo)):
            batch = todo[n * _BATCH : (n + 1) * _BATCH]
            self._store_codes(batch, adapted_codes(hashes, self.adaptation))

    def codes(self, refs: Sequence[ImageRef]) -> NDArray[np.uint8] | None:
        """The new codes of images: uint8, (n, bits // 8); None if one is not encoded yet."""
        found = [self._codes.get(ref.identity) for ref in refs]
        if None in found:
            return None
        packed = b"".join(code for code in found if code is not None)
        return np.frombuffer(packed, np.uint8).reshape(len(found), self._encoder.bits // 8)

    def _store_codes(self, refs: Sequence[ImageRef], codes: NDArray[np.uint8]) -> None:
        for ref, code in zip(refs, codes, strict=True):
            self._codes[ref.identity] = code.tobytes()

    def _hashes(self, refs: Sequence[ImageRef]) -> Iterator[NDArray[np.float32]]:
        """The model's hash values, float32, (m, bits), in batches of `_BATCH` images."""
        for start in range(0, len(refs), _BATCH):
            batch = refs[start : start + _BATCH]
            sources = [self._source(ref) for ref in batch]
            encoded = self._encoder.encode(sources, on_progress=self._advance)
            self._refuse(
                {
                    ref.key: why
                    for row, (ref, source) in enumerate(zip(batch, sources, strict=True))
                    if (why := _reason_unusable(ref, source, encoded.errors.get(row))) is not None
                }
            )
            yield encoded.hashes

    def _source(self, ref: ImageRef) -> Source:
        if ref.file is not None:
            return ImageFile(ref.file.path)
        if self._images is None:
            raise self._images_required([ref.key])
        return self._images(ref.key)

    def _calibrate(
        self,
        refs: Sequence[ImageRef],
        codes: NDArray[np.uint8],
        model_calibration: Calibration | None,
    ) -> Calibration | None:
        """Measure the calibration; None if no image is large enough to be altered.

        Args:
            refs: images to alter.
            codes: adapted codes of those images, followed by the codes of others.
            model_calibration: of the model's own codes, or None.
        """
        rows: list[int] = []
        encoded = self._encoder.encode(self._altered(refs, rows), on_progress=self._advance)
        if not rows:
            return None
        altered_codes = adapted_codes(encoded.hashes, self.adaptation)
        duplicates = code_distances(altered_codes, codes[rows])
        unrelated = _distances_of_pairs(codes[:_MAX_UNRELATED])
        measured = calibrate(duplicates, [], unrelated, self._encoder.bits)
        return with_kind_of(measured, model_calibration)

    def _altered(self, refs: Sequence[ImageRef], rows: list[int]) -> Iterator[Image.Image]:
        """Altered versions of images; appends to `rows` the position of each one's original."""
        for row, ref in enumerate(refs):
            source, refused = self._source(ref), None
            try:
                # Ten full-size versions of a panorama would take gigabytes.
                preprocess = self._encoder.contract.preprocess
                image = fitted(source, _MAX_ALTERED_PX, preprocess.size, preprocess.depth)
            except ImageError as error:
                refused = error
            why = _reason_unusable(ref, source, refused)
            if why is not None:
                raise self._refusal({ref.key: why}) from refused
            if min(image.size) < _MIN_ALTERED_PX:
                continue
            for version in altered(image).values():
                rows.append(row)
                yield version

    def _advance(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def _images_required(self, keys: Sequence[str]) -> GalleryError:
        return GalleryError(
            f"{self._gallery}: nothing was changed; {len(keys)} items were added by hand "
            f"({_few(keys)}), and their images are required: pass a function from key to image, "
            "adapt(images=...)"
        )

    def _refuse(self, reasons: dict[str, str]) -> None:
        if reasons:
            raise self._refusal(reasons)

    def _refusal(self, reasons: dict[str, str]) -> GalleryError:
        named = _few([f"{key}: {reason}" for key, reason in reasons.items()], "; ")
        return GalleryError(
            f"{self._gallery}: nothing was changed; {len(reasons)} of its images cannot be "
            f"encoded again ({named}); sync first, or remove them"
        )


def _few(texts: Sequence[str], separator: str = ", ") -> str:
    named = separator.join(texts[:_MAX_NAMED])
    return named if len(texts) <= _MAX_NAMED else f"{named}{separator}..."


def _distances_of_pairs(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of all pairs of codes."""
    signs = np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1
    # Integers up to 1024 are exact in float32.
    products: NDArray[np.float32] = signs @ signs.T
    doubled = signs.shape[1] - products[np.triu_indices(len(codes), 1)]
    distances: NDArray[np.int64] = doubled.astype(np.int64) // 2
    return distances


def _reason_missing(ref: ImageRef) -> str | None:
    if ref.file is None:
        return None
    try:
        size = os.stat(ref.file.path).st_size  # noqa: PTH116 (bytes)
    except OSError as error:
        return error.strerror or str(error)
    return None if size == ref.file.size else CHANGED


def _reason_unusable(ref: ImageRef, source: Source, error: ImageError | None) -> str | None:
    if ref.file is not None and isinstance(source, ImageFile):
        return reason_unusable(ref.file, source, error)
    return None if error is None else str(error)


def reason_unusable(file: FileState, read: ImageFile, error: ImageError | None) -> str | None:
    """Why what was read is not the image of an item; None if it is.

    The digest is of the bytes that were decoded: a code must be of the image that the gallery
    holds, not of one that has taken its file's name since.

    Args:
        file: of the item.
        read: the file, after it has been encoded.
        error: of encoding it, or None.
    """
    if read.content and read.content != file.content:
        return CHANGED
    return None if error is None else str(error).removeprefix(f"{printable(read.path)}: ")
