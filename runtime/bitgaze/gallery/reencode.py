"""A gallery's images, read again to be coded anew: with an adaptation, or without one.

Knows items' files, the encoder, and what to learn from hash values. Does not know searches.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.cores import available_cores
from bitgaze.encoding.alterations import altered
from bitgaze.encoding.calibration import Calibration, calibrate
from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.images import Source, fitted
from bitgaze.errors import GalleryError, ImageError
from bitgaze.gallery.adaptation import Adaptation, fit, with_kind_of
from bitgaze.gallery.items import ItemImage, changed
from bitgaze.gallery.store import Store
from bitgaze.hamming import pack

# Images to learn from, and at a time: what is held of the images' hash values. On CIFAR-10 and
# Fashion-MNIST each doubling still gained, 4,096 images .006 more than 2,048.
_MAX_FITTED = 20_000
_BATCH = 512
# Altered, ten ways each: 2,000 pairs, as many encodings.
_MAX_ALTERED = 200
# Of these all pairs are unrelated ones: 2 million.
_MAX_STRANGERS = 2_000
_LONGEST_ALTERED_PX = 1024
_SHORTEST_ALTERED_PX = 8
_MAX_NAMED = 5


def fewest(bits: int) -> int:
    """Images that it takes to adapt codes of so many bits.

    Measured at 128 bits. On images like those that the model was made with, where there is least
    to gain: 8 of them cost mAP .002 in the mean, 32 gained in each of eight samples, 64 gained
    .010 and more.
    """
    return bits // 2


def recode(
    store: Store,
    encoder: Encoder,
    images: Callable[[str], Source] | None,
    *,
    reset: bool,
    on_progress: Callable[[int, int], None] | None,
) -> int:
    """Code all items anew, as `Gallery.adapt` says.

    Args:
        store: the gallery's file.
        encoder: the gallery's model.
        images: gives the image of an item added by hand, by its key.
        reset: with the model's own codes, else adapted.
        on_progress: called with (done, total) images as they are encoded.

    Returns:
        How many items.
    """
    recoding = Recoding(store.path, encoder, images, on_progress)
    with store.reading():
        item_images = store.images()
        model_calibration = store.info["calibration"]
    recoding.check(item_images)
    if not reset:
        recoding.learn(item_images, model_calibration)
    while True:
        recoding.encode(item_images)
        with store.writing():
            # Others may have written: what came or changed meanwhile takes another round.
            item_images = store.images()
            codes = recoding.codes(item_images)
            if codes is not None:
                store.recode(codes, recoding.adaptation, recoding.calibration)
                return len(codes)


class Recoding:
    """New codes for a gallery's images, by what identifies each.

    Args:
        gallery: path of the gallery, for messages.
        encoder: the gallery's model.
        images: gives the image of an item added by hand, by its key.
        on_progress: called with (done, total) images as they are encoded.

    Attributes:
        adaptation: what `learn` found; None before, and then codes are the model's own.
        calibration: what distances between the new codes mean, or None.
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
        self._codes: dict[bytes, bytes] = {}  # Image.identity to code
        self._done = self._total = 0

    def check(self, item_images: Sequence[ItemImage]) -> None:
        """Find out early, without opening a file, that images are missing.

        Raises:
            GalleryError: images are gone, have another size than before, or are known to the
                caller only, who does not give them.
        """
        by_hand = [item_image.key for item_image in item_images if item_image.file is None]
        if by_hand and self._images is None:
            raise self._ungiven(by_hand)
        self._refuse({p.key: reason for p in item_images if (reason := _missing(p)) is not None})

    def learn(
        self, item_images: Sequence[ItemImage], model_calibration: Calibration | None
    ) -> None:
        """Fit the adaptation, and measure what distances between its codes mean.

        Args:
            item_images: of the gallery.
            model_calibration: of the model's own codes, if there is one.

        Raises:
            GalleryError: there are too few images, or one is not what it was.
        """
        different = list({item_image.identity: item_image for item_image in item_images}.values())
        need = fewest(self._encoder.bits)
        if len(different) < need:
            raise GalleryError(
                f"{self._gallery}: {len(different)} different images are too few to adapt to; "
                f"codes of {self._encoder.bits} bits take at least {need}"
            )
        order = np.random.default_rng(0).permutation(len(different))[:_MAX_FITTED]
        sample = [different[row] for row in order]
        self._total = len(different) + 10 * min(len(sample), _MAX_ALTERED)
        hashes = np.concatenate(list(self._hashes(sample)))
        self.adaptation = fit(hashes)
        codes = self.adaptation.codes(hashes)
        self._keep(sample, codes)
        self.calibration = self._calibrated(
            self.adaptation, sample[:_MAX_ALTERED], codes, model_calibration
        )

    def encode(self, item_images: Sequence[ItemImage]) -> None:
        """Code those images that are not coded yet.

        Raises:
            GalleryError: one is not what it was.
        """
        todo = list({p.identity: p for p in item_images if p.identity not in self._codes}.values())
        self._total = self._done + len(todo)
        for start, hashes in enumerate(self._hashes(todo)):
            codes = pack(hashes) if self.adaptation is None else self.adaptation.codes(hashes)
            self._keep(todo[start * _BATCH : (start + 1) * _BATCH], codes)

    def codes(self, item_images: Sequence[ItemImage]) -> NDArray[np.uint8] | None:
        """New codes of these images: uint8, (n, bits // 8); None if one is not coded yet."""
        found = [self._codes.get(item_image.identity) for item_image in item_images]
        if None in found:
            return None
        packed = b"".join(code for code in found if code is not None)
        return np.frombuffer(packed, np.uint8).reshape(len(found), self._encoder.bits // 8)

    def _keep(self, item_images: Sequence[ItemImage], codes: NDArray[np.uint8]) -> None:
        for item_image, code in zip(item_images, codes, strict=True):
            self._codes[item_image.identity] = code.tobytes()

    def _hashes(self, item_images: Sequence[ItemImage]) -> Iterator[NDArray[np.float32]]:
        """Hash values of the model, float32, (m, bits), batch by batch."""
        for start in range(0, len(item_images), _BATCH):
            batch = item_images[start : start + _BATCH]
            # Codes must be of what the gallery says it holds, not of what lies there now.
            with ThreadPoolExecutor(available_cores()) as pool:
                reasons = pool.map(_changed, batch)
            self._refuse({p.key: why for p, why in zip(batch, reasons, strict=True) if why})
            sources = [self._source(item_image) for item_image in batch]
            encoded = self._encoder.encode(sources, on_progress=self._advance)
            self._refuse({batch[row].key: str(error) for row, error in encoded.errors.items()})
            yield encoded.hashes

    def _source(self, item_image: ItemImage) -> Source:
        if item_image.file is not None:
            return os.fsdecode(item_image.file.path)
        if self._images is None:
            raise self._ungiven([item_image.key])
        return self._images(item_image.key)

    def _calibrated(
        self,
        adaptation: Adaptation,
        item_images: Sequence[ItemImage],
        codes: NDArray[np.uint8],
        model_calibration: Calibration | None,
    ) -> Calibration | None:
        """The calibration, or None if no image is large enough to be altered.

        Args:
            adaptation: that made the codes.
            item_images: to be altered.
            codes: of those and others, in this order.
            model_calibration: of the model's own codes, if there is one.
        """
        originals: list[int] = []
        encoded = self._encoder.encode(
            self._versions(item_images, originals), on_progress=self._advance
        )
        if not originals:
            return None
        versions = adaptation.codes(encoded.hashes)
        duplicates = np.unpackbits(versions ^ codes[originals], axis=1).sum(axis=1, dtype=np.int64)
        unrelated = _distances_of_pairs(codes[:_MAX_STRANGERS])
        measured = calibrate(duplicates, [], unrelated, self._encoder.bits)
        return with_kind_of(measured, model_calibration)

    def _versions(
        self, item_images: Sequence[ItemImage], originals: list[int]
    ) -> Iterator[Image.Image]:
        """Altered versions of images; to `originals` goes the row of the one each is of."""
        for row, item_image in enumerate(item_images):
            try:
                # Ten versions of a panorama would be gigabytes.
                image = fitted(
                    self._source(item_image),
                    _LONGEST_ALTERED_PX,
                    self._encoder.contract.preprocess.size,
                )
            except ImageError as error:
                raise self._refusal({item_image.key: str(error)}) from error
            if min(image.size) < _SHORTEST_ALTERED_PX:
                continue
            for version in altered(image).values():
                originals.append(row)
                yield version

    def _advance(self, count: int) -> None:
        self._done += count
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)

    def _ungiven(self, keys: Sequence[str]) -> GalleryError:
        return GalleryError(
            f"{self._gallery}: nothing was changed; {len(keys)} of its items were added by hand "
            f"({_few(keys)}), and their images are needed again: adapt(images=...) takes a "
            "function from key to image"
        )

    def _refuse(self, reasons: dict[str, str]) -> None:
        if reasons:
            raise self._refusal(reasons)

    def _refusal(self, reasons: dict[str, str]) -> GalleryError:
        named = _few([f"{key}: {reason}" for key, reason in reasons.items()], "; ")
        return GalleryError(
            f"{self._gallery}: nothing was changed; {len(reasons)} of its images cannot be "
            f"read as they were when they were added ({named}); sync first, or remove them"
        )


def _few(texts: Sequence[str], separator: str = ", ") -> str:
    named = separator.join(texts[:_MAX_NAMED])
    return named if len(texts) <= _MAX_NAMED else f"{named}{separator}..."


def _distances_of_pairs(codes: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Of every two of some codes, the distance."""
    signs = np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1
    # Whole numbers up to 1024: exact in float32.
    products: NDArray[np.float32] = signs @ signs.T
    doubled = signs.shape[1] - products[np.triu_indices(len(codes), 1)]
    distances: NDArray[np.int64] = doubled.astype(np.int64) // 2
    return distances


def _missing(item_image: ItemImage) -> str | None:
    if item_image.file is None:
        return None
    try:
        size = os.stat(item_image.file.path).st_size  # noqa: PTH116 (bytes)
    except OSError as error:
        return error.strerror or str(error)
    return None if size == item_image.file.size else "changed since"


def _changed(item_image: ItemImage) -> str | None:
    return None if item_image.file is None else changed(item_image.file)
