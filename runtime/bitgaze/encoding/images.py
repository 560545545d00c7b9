"""Load an image from any source: upright, RGB, resized to a model's input.

The one place where images are decoded and resized, for the runtime and for training alike: codes
are comparable only if their images went through the same steps.
"""

import io
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgaze.errors import ImageError

Source: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

# File name extensions that count as images. Some formats Pillow cannot read (HEIC needs a plug-in);
# listing them gets such a file reported instead of silently missing from the gallery.
SUFFIXES = frozenset(
    [
        ".apng",
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".qoi",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
# Pillow formats to decode, whatever the file's name. Pillow opens more, some of which are programs:
# it would run PostScript named .jpg in Ghostscript. TGA has no magic number, so it comes last; HEIF
# requires a plug-in.
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "GIF",
    "TIFF",
    "BMP",
    "DIB",
    "AVIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "QOI",
    "TGA",
)
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Two threads must not decode the same lazily opened PIL image, and callers may pass one twice.
_PIL_LOCK = threading.Lock()
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_KNOWN_RULES = {
    "filter": tuple(_FILTERS),
    "exif": ("upright",),
    "alpha": ("white",),
    "resize": ("stretch",),
}
# Pillow may first shrink by whole factors, down to this multiple of the target: a 12-megapixel
# photograph then takes 9 ms instead of 109, with no visible difference.
_REDUCING_GAP = 2.0
_STRIP_PIXELS = 1 << 20
# Where Pillow refuses too (twice its MAX_IMAGE_PIXELS), unless a program has lifted that limit: 720
# MB at 4 bytes per pixel.
_MAX_PIXELS = 178_956_970
# The WebP decoder holds the canvas four times: 94 million pixels took 1.4 GB, from a file of 5 kB.
_MAX_PIXELS_WEBP = _MAX_PIXELS // 4


@dataclass(frozen=True)
class Preprocess:
    """The steps from an image to a model's input; part of the model's identity.

    Spelled out in full, so that a model file tells any program what to do. This version supports
    one value for most of them and refuses a file with another value rather than misread it.

    Attributes:
        size: side of the model's input in pixels, at least 1.
        filter: "bilinear" or "bicubic", as Pillow computes them.
        exif: "upright": rotated and mirrored according to the EXIF orientation.
        alpha: "white": transparent images are composited on white.
        resize: "stretch": the whole image becomes a square. It keeps the edges, and finds more than
            a centre crop or padding does (docs/lab-notes.md).
    """

    size: int
    filter: str = "bicubic"
    exif: str = "upright"
    alpha: str = "white"
    resize: str = "stretch"

    def __post_init__(self) -> None:
        if type(self.size) is not int:
            raise TypeError(f"size is {self.size!r}, expected an integer")
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected at least 1")
        for name, known in _KNOWN_RULES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}, this version of bitgaze supports {known}")


def load(source: Source, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Load an image as a model's input.

    Args:
        source: a path, the content of an image file, a PIL image, or a uint8 array: (height, width)
            grey, (height, width, 3) RGB or (height, width, 4) RGBA.
        preprocess: of the model; its size and filter apply.

    Returns:
        uint8, shape (size, size, 3), RGB, upright, C-contiguous.

    Raises:
        ImageError: the image cannot be read, or its file has more than 178,956,970 pixels (a
            quarter of that for WebP).
        TypeError: `source` is none of the above.
        ValueError: an array of a different shape.
    """
    image = upright(source, preprocess.size)
    square = (preprocess.size, preprocess.size)
    if image.size != square:
        image = image.resize(square, _FILTERS[preprocess.filter], reducing_gap=_REDUCING_GAP)
    return np.array(image)


def upright(source: Source, shorter_side: int) -> Image.Image:
    """Load a whole image, upright and RGB; a large JPEG is decoded at a reduced scale.

    Args:
        source: as for `load`.
        shorter_side: required length of the result's shorter side, in pixels. It is at least this
            long, unless the image itself is smaller.

    Raises:
        ImageError, TypeError, ValueError: as for `load`.
    """
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source))
    if isinstance(source, Image.Image):
        try:
            with _PIL_LOCK:
                source.load()
                orientation = _orientation(source)
            return _turned(_rgb(source), orientation)
        except Exception as error:  # a lazily opened image is decoded here; see _opened
            raise ImageError(f"PIL image: {_reason(error)}") from error
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview):
        raise TypeError(
            f"an image is a path, bytes, PIL.Image or numpy array, not {type(source).__name__}"
        )
    with _opened(source) as image:
        _check_size(image)
        _draft(image, shorter_side)
        return _turned(_rgb(image), _orientation(image))


def dimensions(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Read width and height of an image file in pixels, before EXIF rotation, without decoding it.

    Args:
        source: a path, or the content of an image file.

    Raises:
        ImageError: the file cannot be read or is not an image.
    """
    with _opened(source) as image:
        return image.size


@contextmanager
def _opened(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
) -> Iterator[Image.Image]:
    """An open image file. Any failure until it is closed becomes an ImageError that names it."""
    if isinstance(source, str | os.PathLike):
        file: str | io.BytesIO = os.fspath(source)
        name = printable(source)
    else:
        file, name = io.BytesIO(source), f"{len(source)} bytes"
    # On hostile or damaged files decoders raise nearly anything (struct.error, SyntaxError,
    # IndexError, ...). All of it means that this image cannot be read.
    try:
        Image.init()  # registers every format, once; Image.open fails on a format not registered
        formats = [format for format in _FORMATS if format in Image.OPEN]
        with Image.open(file, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that bitgaze reads") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder; name an image in it") from error
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def printable(path: str | bytes | os.PathLike[str]) -> str:
    r"""Turn a path into text that can be printed and stored: bytes not in UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8, not {array.dtype}")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            "an image array must have shape (height, width), (height, width, 3) or "
            f"(height, width, 4), not {array.shape}"
        )
    return Image.fromarray(array)


def _check_size(image: Image.Image) -> None:
    """Refuse a huge image before decoding: a file of a few bytes can claim to hold gigabytes."""
    most = _MAX_PIXELS_WEBP if image.format == "WEBP" else _MAX_PIXELS
    if image.width * image.height > most:
        raise ValueError(
            f"{image.width} x {image.height} pixels, the maximum is {most} in total; "
            "downscale it first and pass a PIL image"
        )


def _draft(image: Image.Image, shorter_side: int) -> None:
    """Let a JPEG decode at 1/2, 1/4 or 1/8 of its size, leaving enough pixels for the filter."""
    width, height = image.size
    scale = _REDUCING_GAP * shorter_side / min(width, height)
    if scale < 1:
        image.draft(None, (round(width * scale), round(height * scale)))


def _rgb(image: Image.Image) -> Image.Image:
    """Convert from any of Pillow's modes to RGB, compositing transparency on white."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # In strips, since the four copies that compositing makes of a whole image dominated memory.
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_white(strip), (0, top))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Pillow reduces 16-bit colours to their high bytes, but not the transparent colour.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Scale high-depth greys to 8 bits, where Pillow's own conversion clips them at 255.

    Float samples are in [0, 1]. Integer samples have 16 bits, unless Pillow holds them in 32 bits
    (mode "I") and none exceeds 255: then they have 8 bits. The transparent value becomes white.

    Raises:
        ValueError: a sample is out of range or NaN.
    """
    values: NDArray[np.float32] = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()  # NaN if any sample is
    top = 65535
    if image.mode == "F":
        top = 1
    elif image.mode == "I" and high <= 255:
        top = 255
    if not 0 <= low <= high <= top:
        raise ValueError(
            f"samples are in {low:g}..{high:g}, expected 0..{top} in mode {image.mode}"
        )
    if isinstance(key := image.info.get("transparency"), int):
        values[values == key] = top
    if top == 1:
        values *= 255
    elif top == 65535:
        values /= 257
    return Image.fromarray(values.round().astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if there is none or the EXIF block is broken.

    A broken EXIF block must not make an image unreadable.
    """
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
