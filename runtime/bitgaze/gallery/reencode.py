"""Re-encode a gallery's images: fit an adaptation to them, or return to the model's own codes."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.calibration import Calibration, false_match_rates
from bitgaze.encoding.encoder import Encoded, Encoder
from bitgaze.encoding.images import ImageFile, Source
from bitgaze.encoding.structure import STRUCTURE_BITS
from bitgaze.errors import GalleryError, ImageError
from bitgaze.gallery.adaptation import Adaptation, adapted_codes, carried_over_from, fit
from bitgaze.gallery.distances import view_distances
from bitgaze.gallery.items import CHANGED, ImageRef, reason_unusable
from bitgaze.gallery.store import Store
from bitgaze.hamming import HammingIndex
from bitgaze.views import ViewIndex

# Images to fit an adaptation to; their hash values are held in memory. On CIFAR-10 and
# Fashion-MNIST each doubling still gained: 4,096 images had .006 more mAP than 2,048.
_MAX_FITTED = 20_000
# Images encoded at a time.
_BATCH = 512
# Images whose pairs count as unrelated: 2 million pairs.
_MAX_UNRELATED = 2_000
# Structural distance up to which two images may be copies: nearly all that were resized,
# compressed, recoloured or captioned, and hardly a pair of different photographs
# (export/copies_table.py).
_COPIED = 60
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
    with store.reading():
        refs = store.image_refs()
        model_calibration, looks = store.info["calibration"], store.info["looks"]
    reencoder = _Reencoder(store.path, encoder, looks, images, on_progress)
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
                views, structure = codes
                adaptation, calibration = reencoder.adaptation, reencoder.calibration
                store.replace_codes(views, adaptation, calibration, structure)
                return len(views)


class _Reencoder:
    """Computes new codes of a gallery's images and holds them by the images' identities.

    Args:
        gallery: path of the gallery, for messages.
        encoder: the gallery's model.
        looks: number of looks of an item.
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
        looks: int,
        images: Callable[[str], Source] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.adaptation: Adaptation | None = None
        self.calibration: Calibration | None = None
        self._gallery = gallery
        self._encoder = encoder
        self._looks = looks
        self._images = images
        self._on_progress = on_progress
        self._codes: dict[bytes, tuple[bytes, bytes]] = {}  # by ImageRef.identity
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
        self._total = len(distinct)
        batches = list(self._hashes(sample))
        hashes = np.concatenate([encoded.view_hashes for encoded in batches])
        structure = np.concatenate([encoded.structure for encoded in batches])
        self.adaptation = fit(hashes.reshape(-1, self._encoder.bits))
        views = adapted_codes(hashes, self.adaptation)
        self._keep(sample, views, structure)
        unrelated = distances_of_unrelated(views[:_MAX_UNRELATED], structure[:_MAX_UNRELATED])
        if len(unrelated):
            rates = false_match_rates(unrelated, self._encoder.bits)
            self.calibration = carried_over_from(model_calibration, rates)

    def encode(self, refs: Sequence[ImageRef]) -> None:
        """Compute the codes of images that have none yet.

        Raises:
            GalleryError: an image has changed.
        """
        todo = list({ref.identity: ref for ref in refs if ref.identity not in self._codes}.values())
        self._total = self._done + len(todo)
        for n, encoded in enumerate(self._hashes(todo)):
            batch = todo[n * _BATCH : (n + 1) * _BATCH]
            views = adapted_codes(encoded.view_hashes, self.adaptation)
            self._keep(batch, views, encoded.structure)

    def codes(self, refs: Sequence[ImageRef]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]] | None:
        """The new codes of images and looks, (n, 1 + looks, bits // 8), and structural codes.

        None if an image is not encoded yet.
        """
        found = [self._codes.get(ref.identity) for ref in refs]
        if None in found:
            return None
        known = [codes for codes in found if codes is not None]
        views, structure = (
            np.frombuffer(b"".join(codes[part] for codes in known), np.uint8) for part in (0, 1)
        )
        shape = len(found), 1 + self._looks, self._encoder.bits // 8
        return views.reshape(shape), structure.reshape(len(found), STRUCTURE_BITS // 8)

    def _keep(
        self, refs: Sequence[ImageRef], views: NDArray[np.uint8], structure: NDArray[np.uint8]
    ) -> None:
        for ref, codes, structural in zip(refs, views, structure, strict=True):
            self._codes[ref.identity] = codes.tobytes(), structural.tobytes()

    def _hashes(self, refs: Sequence[ImageRef]) -> Iterator[Encoded]:
        """The model's outputs, in batches of `_BATCH` images."""
        for start in range(0, len(refs), _BATCH):
            batch = refs[start : start + _BATCH]
            sources = [self._source(ref) for ref in batch]
            encoded = self._encoder.encode(sources, looks=self._looks, on_progress=self._advance)
            self._refuse(
                {
                    ref.key: why
                    for row, (ref, source) in enumerate(zip(batch, sources, strict=True))
                    if (why := _reason_unusable(ref, source, encoded.errors.get(row))) is not None
                }
            )
            yield encoded

    def _source(self, ref: ImageRef) -> Source:
        if ref.file is not None:
            return ImageFile(ref.file.path, is_tolerant=True)
        if self._images is None:
            raise self._images_required([ref.key])
        return self._images(ref.key)

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


def distances_of_unrelated(
    views: NDArray[np.uint8], structure: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Distances of all pairs of images but those that look like copies.

    Args:
        views: uint8, (n, 1 + looks, bits // 8).
        structure: structural codes, uint8, (n, 32).

    Returns:
        int64, ascending, in whole bits.
    """
    count, places, width = views.shape
    index = ViewIndex(8 * width, places)
    index.add(views)
    distances, _ = index.search(views, count, exclude=np.arange(count))
    # Each pair is found twice, from either side.
    pairs = np.sort(distances[:, : count - 1], axis=None)[::2]
    histogram = np.bincount(np.rint(pairs / index.unit(places)).astype(np.int64))
    known = np.flatnonzero(structure.any(axis=1))
    seen = HammingIndex(8 * structure.shape[1])
    seen.add(structure[known])
    lims, _, other = seen.range_search(structure[known], _COPIED, exclude=np.arange(len(known)))
    one = np.repeat(np.arange(len(known)), np.diff(lims))
    one, other = known[one[one < other]], known[other[one < other]]
    copies = np.rint(view_distances(views[one], views[other])).astype(np.int64)
    histogram -= np.bincount(copies, minlength=len(histogram))
    return np.repeat(np.arange(len(histogram)), histogram)


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
