"""An image from anywhere, upright, as RGB of the size a model takes.

The one place where images are decoded and resized, for the runtime and for training alike: a code
is only comparable with another that went through the same steps. Knows nothing of models or
galleries.
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

# What counts as an image, by the end of its name. Formats that Pillow cannot read (HEIC, without a
# plug-in) are listed too, so that such a file is reported instead of silently missing from the
# gallery.
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
# What is read, whatever a file's name says. Pillow opens more, and some of it is a program rather
# than an image: PostScript, named .jpg, would be run by Ghostscript. TGA has no mark at its
# beginning, so it comes last; HEIF is there only with a plug-in.
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
# A lazily opened PIL image breaks when two threads decode it, and the same one may come twice.
_PIL_IMAGES = threading.Lock()
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_KNOWN_RULES = {
    "filter": tuple(_FILTERS),
    "exif": ("upright",),
    "alpha": ("white",),
    "resize": ("stretch",),
}
# Pillow may shrink by whole pixels down to this multiple of the target before it filters: a
# 12-megapixel photograph then takes 9 ms instead of 109 with a difference that the eye cannot see.
_REDUCING_GAP = 2.0
_STRIP_PIXELS = 1 << 20
# Twice Pillow's own limit, which is where it refuses, too; a program may have set that to None for
# images that it trusts. At 4 bytes each, 720 MB.
_MAX_PIXELS = 178_956_970
# Its decoder holds the canvas four times over: 94 million pixels took 1.4 GB, from 5 kB.
_MAX_PIXELS_WEBP = _MAX_PIXELS // 4


@dataclass(frozen=True)
class Preprocess:
    """The steps from an image to a model's input; part of the model's identity.

    Written out in full, so that a model file tells another program all it has to do. This version
    knows one way for most of them; a file that asks for another is refused, not misread.

    Attributes:
        size: side of the model's input in pixels.
        filter: "bilinear" or "bicubic", as Pillow computes them.
        exif: "upright", turned as the EXIF orientation says.
        alpha: "white", transparent images lie on it.
        resize: "stretch": the whole image becomes a square. Nothing at the edges is lost, which
            finds more than a central crop or a border does (docs/lab-notes.md).
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
                raise ValueError(f"{name} is {value!r}, this version of bitgaze knows {known}")


def load(source: Source, preprocess: Preprocess) -> NDArray[np.uint8]:
    """One image as a model takes it.

    Args:
        source: a path, the bytes of an image file, a PIL image, or an array: uint8, (height, width)
            grey, (height, width, 3) RGB or (height, width, 4) RGBA.
        preprocess: size and filter.

    Returns:
        uint8, shape (size, size, 3), RGB, upright, C-contiguous.

    Raises:
        ImageError: the image cannot be read, or has more than 178,956,970 pixels, as WebP a
            quarter of that.
        TypeError: `source` is none of the above.
        ValueError: an array of another shape.
    """
    image = upright(source, preprocess.size)
    square = (preprocess.size, preprocess.size)
    if image.size != square:
        image = image.resize(square, _FILTERS[preprocess.filter], reducing_gap=_REDUCING_GAP)
    return np.array(image)


def upright(source: Source, shorter_side: int) -> Image.Image:
    """The whole image, upright, RGB; decoded at a reduced scale where its format can.

    Args:
        source: as for `load`.
        shorter_side: pixels that the caller needs. The result's shorter side is at least this long,
            unless the image itself is smaller.

    Raises:
        ImageError, TypeError, ValueError: as for `load`.
    """
    if isinstance(source, np.ndarray):
        return _rgb(_from_array(source))
    if isinstance(source, Image.Image):
        try:
            with _PIL_IMAGES:
                source.load()
                orientation = _orientation(source)
            return _turned(_rgb(source), orientation)
        except Exception as error:  # a lazily opened image decodes here; see below
            raise ImageError(f"PIL image: {_reason(error)}") from error
    if isinstance(source, bytes | bytearray | memoryview):
        name, stream = f"{len(source)} bytes", io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        name, stream = os.fspath(source), None
    else:
        raise TypeError(
            f"an image is a path, bytes, PIL.Image or numpy array, not {type(source).__name__}"
        )
    with _opened(stream or name, name) as image:
        _check_size(image)
        _draft(image, shorter_side)
        return _turned(_rgb(image), _orientation(image))


def dimensions(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Width and height of an image in pixels, as its file stores it; nothing is decoded.

    Args:
        source: path or bytes of an image file.

    Raises:
        ImageError: the file cannot be read, or is no image.
    """
    if isinstance(source, bytes):
        with _opened(io.BytesIO(source), f"{len(source)} bytes") as image:
            return image.size
    with _opened(source, os.fspath(source)) as image:
        return image.size


@contextmanager
def _opened(source: str | os.PathLike[str] | io.BytesIO, name: str) -> Iterator[Image.Image]:
    """An image file, open; what fails until it is closed is an ImageError that names it."""
    # Decoders of hostile or damaged files raise nearly anything (struct.error, SyntaxError,
    # IndexError, ...). All of it means one thing here: this image cannot be read.
    try:
        Image.init()  # all formats, once; Pillow fails on one it has not met
        formats = [name for name in _FORMATS if name in Image.OPEN]
        with Image.open(source, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{printable(name)}: not an image that bitgaze reads") from error
    except IsADirectoryError as error:
        raise ImageError(f"{printable(name)}: a folder; name an image in it") from error
    except Exception as error:
        raise ImageError(f"{printable(name)}: {_reason(error)}") from error


def printable(path: str | bytes | os.PathLike[str]) -> str:
    r"""A path as text that can be printed and stored: bytes that are not UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _from_array(array: NDArray[Any]) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"an image array is uint8, not {array.dtype}")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            f"an image array has shape (height, width), (height, width, 3) or (height, width, 4), "
            f"not {array.shape}"
        )
    return Image.fromarray(array)


def _check_size(image: Image.Image) -> None:
    """Before anything is decoded: a file of a few bytes can say that it holds gigabytes."""
    most = _MAX_PIXELS_WEBP if image.format == "WEBP" else _MAX_PIXELS
    if image.width * image.height > most:
        raise ValueError(
            f"{image.width} x {image.height} pixels, expected at most {most} in all; "
            "of a larger image give a PIL image"
        )


def _draft(image: Image.Image, shorter_side: int) -> None:
    """Let a JPEG decode at 1/2, 1/4 or 1/8 of its size, with room for the filter."""
    width, height = image.size
    scale = _REDUCING_GAP * shorter_side / min(width, height)
    if scale < 1:
        image.draft(None, (round(width * scale), round(height * scale)))


def _rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB; a transparent image lies on white."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    # In strips: the four copies that it takes of a whole image were most of the memory.
    rgb = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_white(strip), (0, top))
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Pillow keeps the high byte of 16-bit colours, but not of the one that is transparent.
        image.info["transparency"] = tuple(value >> 8 for value in key)
    if image.mode == "La":  # greys multiplied by their alpha: Pillow knows one way out
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep greys scaled to 8 bits; Pillow's own conversion clips everything above 255 to white.

    Floats are in [0, 1]. Integers are 16-bit samples, except where Pillow holds them in 32 bits
    (mode "I") and none exceeds 255: then they are 8-bit ones. A transparent value becomes white.

    Raises:
        ValueError: a sample outside its range, or not a number.
    """
    values: NDArray[np.float32] = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()  # not a number if one sample is not
    top = 65535
    if image.mode == "F":
        top = 1
    elif image.mode == "I" and high <= 255:
        top = 255
    if not 0 <= low <= high <= top:
        raise ValueError(
            f"its samples lie in {low:g}..{high:g}, expected 0..{top} in mode {image.mode}"
        )
    if isinstance(key := image.info.get("transparency"), int):
        values[values == key] = top
    if top == 1:
        values *= 255
    elif top == 65535:
        values /= 257
    return Image.fromarray(values.round().astype(np.uint8))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, or where the EXIF block is broken.

    A broken block costs an image its rotation, never its place in the gallery.
    """
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, struct.error):
        return 1
    return value if isinstance(value, int) else 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image
