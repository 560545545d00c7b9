"""Altered copies of an image as people make them, and the codes that are to recognise them."""

import io
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from tqdm import tqdm

from attention_hashing.data.folders import images_below
from bitgaze import Encoder
from bitgaze.encoding import likeness
from bitgaze.encoding.images import part, upright
from bitgaze.encoding.likeness import COPY
from bitgaze.encoding.panels import find_panels
from bitgaze.encoding.registration import is_part, reduced
from bitgaze.encoding.structure import STRUCTURE_BITS, turned_codes

COPIES = (
    "exact",
    "messenger",
    "JPEG 30",
    "half size",
    "grey",
    "brighter 40 %",
    "filtered",
    "blur 2",
    "blur 4",
    "caption 15 %",
    "crop to 95 %",
    "crop to 90 %",
    "crop to 80 %",
    "border 5 %",
    "turned 5 degrees",
    "turned 90 degrees",
    "mirrored",
    "collage",
    "in a screenshot",
)
_LEAST_SIDE = 100
HITS = 50  # that describe a query's surroundings


class Coded(NamedTuple):
    """Both codes of n images.

    Attributes:
        semantic: uint8, shape (n, bits // 8), the model's.
        structural: uint8, shape (n, 8, 32), in the eight orientations, the first as given.
        images: as `reduced` returns them, n; empty if they cannot be read.
        panels: of each image, those of its panels, n; empty if they are not searched for.
    """

    semantic: NDArray[np.uint8]
    structural: NDArray[np.uint8]
    images: tuple[Image.Image, ...] = ()
    panels: tuple["Coded", ...] = ()


def coded(images: Iterable[Image.Image], encoder: Encoder, *, with_panels: bool = False) -> Coded:
    """Compute both codes of images, which are RGB, and on request of their panels."""
    structural, semantic, small, panels = [], [], [], []
    batch: list[Image.Image] = []

    def encode() -> None:
        if batch:
            semantic.append(encoder.encode(batch).codes)
            batch.clear()

    for image in tqdm(images, unit="img", disable=None):
        structural.append(turned_codes(image))
        small.append(reduced(image))
        if with_panels:
            crops = [part(image, box) for box in find_panels(small[-1])]
            panels.append(coded(crops, encoder) if crops else _NONE)
        batch.append(image)
        if len(batch) == 64:
            encode()
    encode()
    return Coded(np.concatenate(semantic), np.stack(structural), tuple(small), tuple(panels))


_NONE = Coded(np.empty((0, 0), np.uint8), np.empty((0, 8, STRUCTURE_BITS // 8), np.uint8))


def some(folder: Path, most: int) -> list[Image.Image]:
    """At most `most` images below a folder, evenly spaced, of at least 100 pixels a side."""
    paths = images_below(folder)
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, most).astype(int))]
    images = (upright(path, 10_000) for path in chosen)
    return [image for image in images if min(image.size) >= _LEAST_SIDE]


def altered(images: Sequence[Image.Image], encoder: Encoder) -> Coded:
    """Both codes of all copies of images and of their panels: of the first, of the second, ..."""
    versions = (
        version
        for i, image in enumerate(images)
        for version in copies(image, images[i - 1], i).values()
    )
    return coded(versions, encoder, with_panels=True)


def owners(number: int) -> NDArray[np.int64]:
    """Which of these images each copy of `altered` shows: (copies, 2), the second in a collage."""
    own = np.repeat(np.arange(number), len(COPIES))[:, None]
    is_collage = np.tile([name == "collage" for name in COPIES], number)[:, None]
    return np.hstack([own, np.where(is_collage, (own - 1) % number, own)])


def joined(parts: Sequence[Coded]) -> Coded:
    """One gallery of several."""
    return Coded(
        np.concatenate([part.semantic for part in parts]),
        np.concatenate([part.structural for part in parts]),
        tuple(chain.from_iterable(part.images for part in parts)),
        tuple(chain.from_iterable(part.panels for part in parts)),
    )


def copies(image: Image.Image, other: Image.Image, seed: int) -> dict[str, Image.Image]:
    """Make altered copies of an image as people make them.

    Args:
        image: RGB, at least 100 pixels on each side.
        other: RGB: the other half of the collage.
        seed: of the messenger's size and quality.

    Returns:
        Name, as in `COPIES`, to RGB image. Pixels of blurs are those of an image of 400 pixels.
    """
    rng = np.random.default_rng(seed)
    longer = max(image.size)
    return {
        "exact": image,
        "messenger": _messenger(image, int(rng.integers(160, 257)), int(rng.integers(40, 71))),
        "JPEG 30": _jpeg(image, 30),
        "half size": image.resize((image.width // 2, image.height // 2)),
        "grey": image.convert("L").convert("RGB"),
        "brighter 40 %": ImageEnhance.Brightness(image).enhance(1.4),
        "filtered": ImageEnhance.Color(ImageEnhance.Contrast(image).enhance(1.3)).enhance(1.5),
        "blur 2": image.filter(ImageFilter.GaussianBlur(2 * longer / 400)),
        "blur 4": image.filter(ImageFilter.GaussianBlur(4 * longer / 400)),
        "caption 15 %": _captioned(image),
        "crop to 95 %": _cropped(image, 0.95),
        "crop to 90 %": _cropped(image, 0.90),
        "crop to 80 %": _cropped(image, 0.80),
        "border 5 %": ImageOps.expand(image, longer * 5 // 100, "white"),
        "turned 5 degrees": image.rotate(5, Image.Resampling.BICUBIC),
        "turned 90 degrees": _jpeg(image.transpose(Image.Transpose.ROTATE_90), 80),
        "mirrored": _jpeg(ImageOps.mirror(image), 80),
        "collage": collage(image, other),
        "in a screenshot": screenshot(image),
    }


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=quality)
    with Image.open(stream) as compressed:
        return compressed.convert("RGB")


def _messenger(image: Image.Image, side: int, quality: int) -> Image.Image:
    small = image.copy()
    small.thumbnail((side, side))
    return _jpeg(small, quality)


def _captioned(image: Image.Image) -> Image.Image:
    captioned = image.copy()
    draw = ImageDraw.Draw(captioned)
    top = image.height * 85 // 100
    draw.rectangle((0, top, image.width, image.height), "black")
    draw.text((image.width // 20, top + image.height // 40), "seen on a walk", "white")
    return captioned


def _cropped(image: Image.Image, part: float) -> Image.Image:
    width, height = round(image.width * part), round(image.height * part)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def collage(image: Image.Image, other: Image.Image) -> Image.Image:
    """An image beside another one, both cut to squares."""
    canvas = Image.new("RGB", (800, 400))
    canvas.paste(ImageOps.fit(image, (400, 400)), (0, 0))
    canvas.paste(ImageOps.fit(other, (400, 400)), (400, 0))
    return canvas


def screenshot(image: Image.Image) -> Image.Image:
    """An image on the screen of a phone, black around it, with a bar at the top."""
    screen = Image.new("RGB", (450, 900), "black")
    ImageDraw.Draw(screen).rectangle((0, 0, 450, 60), (40, 40, 40))
    fitted = ImageOps.contain(image, (450, 700))
    screen.paste(fitted, ((450 - fitted.width) // 2, 60 + (700 - fitted.height) // 2))
    return screen


def distances(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of codes: shapes (..., bytes) that broadcast; of (...)."""
    counts: NDArray[np.int64] = np.bitwise_count(one ^ other).sum(-1, dtype=np.int64)
    return counts


def chances(
    queries: Coded,
    gallery: Coded,
    items: int | None = None,
    rates: Sequence[float] = (),
    *,
    exclude_own: bool = False,
) -> NDArray[np.float64]:
    """Probability that each image of a gallery is the query, altered: (queries, images).

    As in a search of a gallery: panels of a query without a copy are searched for, too. NaN where
    one of the two has no structure; 0 for those that are neither among the 50 nearest in meaning
    nor near in structure.

    Args:
        queries: both codes of q images.
        gallery: both codes of the images that are searched.
        items: to be assumed in the gallery; by default as many as there are.
        rates: of these, share of different images by semantic distance or nearer, bits + 1 numbers.
        exclude_own: leave out image i of the gallery for query i.
    """
    found = np.full((len(queries.semantic), len(gallery.semantic)), np.nan)
    for row in range(len(found)):
        excluded = row if exclude_own else None
        found[row] = _said(queries, row, gallery, items, rates, excluded)
        if not queries.panels or np.isnan(found[row]).all() or np.nanmax(found[row]) >= COPY:
            continue
        panels = queries.panels[row]
        for number in range(len(panels.semantic)):
            said = _said(panels, number, gallery, items, rates, excluded)
            found[row] = np.where(said >= COPY, np.fmax(found[row], said), found[row])
    return found


def _said(
    queries: Coded,
    row: int,
    gallery: Coded,
    items: int | None,
    rates: Sequence[float],
    excluded: int | None,
) -> NDArray[np.float64]:
    """What `chances` says of each image for one query, without its panels: (images,)."""
    number, bits = len(gallery.semantic), 8 * gallery.semantic.shape[1]
    found = np.full(number, np.nan)
    code = queries.structural[row, 0]
    if not code.any():
        return found
    compared = gallery.structural[:, 0].any(1)
    if excluded is not None:
        compared[excluded] = False
    ids = np.flatnonzero(compared)
    found[ids] = 0
    semantic = distances(gallery.semantic[ids], queries.semantic[row])
    near = np.argsort(semantic, kind="stable")[:HITS]
    is_near = distances(gallery.structural[ids, 0], code) <= likeness.MOST_MOVED
    near = np.concatenate([near, np.setdiff1d(np.flatnonzero(is_near), near)])
    ids, semantic = ids[near], semantic[near]
    nearer = None
    if items is not None:
        of_these = np.searchsorted(np.sort(semantic), semantic)
        nearer = np.maximum(of_these, items * np.array(rates)[semantic])
    codes = gallery.structural[ids, 0]
    whole, parts = likeness.chances(code, codes, semantic, bits, items or number, nearer=nearer)
    found[ids] = likeness.decided(whole, parts, _part_test(queries, row, gallery, ids))
    return found


def _part_test(
    queries: Coded, row: int, gallery: Coded, ids: NDArray[np.int64]
) -> Callable[[int], bool | None]:
    """A function that compares a query with a hit, by number, by their pixels."""

    def is_part_of(number: int) -> bool | None:
        if not queries.images or not gallery.images:
            return None
        hit = int(ids[number])
        codes = queries.structural[row, 0], gallery.structural[hit, 0]
        return is_part(queries.images[row], gallery.images[hit], codes, turned=True)

    return is_part_of
