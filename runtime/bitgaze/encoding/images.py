"""Load an image from any source: upright, RGB, resized to a model's input.

The one place where images are decoded and resized, for the runtime and for training alike: codes
are comparable only if their images went through the same steps.
"""

import hashlib
import io
import os
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgaze.errors import ImageError


class ImageFile:
    """An image file as a source that is read once: what is decoded is what its digest is of.

    A source for one `load`, `upright` or `encode`, which opens the file in the thread that decodes.
    If the file changes, moves or is replaced meanwhile, that raises an ImageError, and the file is
    to be read again. Later changes of the path's file do not matter to the attributes.

    Attributes:
        path: of the file, as given.
        content: BLAKE2b digest of the file, 16 bytes; empty until it is read.
        size: in bytes; this and the two below are 0 until the file is read.
        mtime_ns: modification time in nanoseconds.
        ctime_ns: as `os.stat` gives it.
        has_changed: whether the file changed, moved or was replaced while it was read.
    """

    def __init__(self, path: str | bytes | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.content = b""
        self.size = self.mtime_ns = self.ctime_ns = 0
        self.has_changed = False

    def __repr__(self) -> str:
        return f"ImageFile({self.path!r})"

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open to be decoded; the attributes are set.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no regular file, or changed until the context ended.
        """
        with open(self.path, "rb", opener=_open_at_once) as file:
            before = _settled(file)
            self.size, self.mtime_ns, self.ctime_ns = _state(before)
            stream: BinaryIO = file
            if self.size <= _IN_MEMORY_BYTES:
                # One byte more, to read to the end of a file that has grown since.
                stream = io.BytesIO(file.read(self.size + 1))
            self.content = _digest(stream)
            try:
                yield stream
            except Exception as error:
                self._compare(file, error)
                raise
            self._compare(file, None)

    def _compare(self, file: BinaryIO, cause: Exception | None) -> None:
        was = self.size, self.mtime_ns, self.ctime_ns
        status = os.fstat(file.fileno())
        try:
            named = os.stat(self.path)  # noqa: PTH116 (may be bytes)
            self.has_changed = not _state(named) == _state(status) == was
            # Some network file systems have another inode number at each look.
            if not self.has_changed and not os.path.samestat(named, status):
                with open(self.path, "rb", opener=_open_at_once) as other:
                    self.has_changed = _digest(other) != self.content
        except OSError:
            self.has_changed = True
        if self.has_changed:
            raise ValueError("changed while it was being read") from cause


Source: TypeAlias = str | os.PathLike[str] | bytes | ImageFile | Image.Image | NDArray[np.uint8]

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
# `ImageFile` reads files of up to this size into memory, and larger ones twice from one descriptor:
# for the digest, then to decode them.
_IN_MEMORY_BYTES = 16 << 20
# File systems round times to a tick of the clock, 1 to 10 ms. A file written within the last tick
# could change again and keep its times.
_TICK_NS = 20_000_000
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
        source: a path, the content of an image file, an `ImageFile`, a PIL image, or a uint8 array:
            (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA.
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
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | ImageFile):
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
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | ImageFile,
) -> Iterator[Image.Image]:
    """An open image file. Any failure until it is closed becomes an ImageError that names it."""
    if isinstance(source, str | os.PathLike):
        name = printable(source)
    elif isinstance(source, ImageFile):
        name = printable(source.path)
    else:
        name = f"{len(source)} bytes"
    # On hostile or damaged files decoders raise nearly anything (struct.error, SyntaxError,
    # IndexError, ...). All of it means that this image cannot be read.
    try:
        Image.init()  # registers every format, once; Image.open fails on a format not registered
        formats = [format for format in _FORMATS if format in Image.OPEN]
        with _stream(source) as stream, Image.open(stream, formats=formats) as image:
            yield image
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that bitgaze reads") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder; name an image in it") from error
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


@contextmanager
def _stream(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | ImageFile,
) -> Iterator[BinaryIO]:
    if isinstance(source, ImageFile):
        with source.opened() as stream:
            yield stream
    elif isinstance(source, str | os.PathLike):
        with open(source, "rb") as stream:  # noqa: PTH123
            yield stream
    else:
        yield io.BytesIO(source)


def _open_at_once(path: str, flags: int) -> int:
    """Opener for `open` that does not wait for a pipe's writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _settled(file: BinaryIO) -> os.stat_result:
    """Status of a regular file, taken so late that any change after it shows in the times.

    Raises:
        ValueError: not a regular file.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    if not 0 <= age_ns < _TICK_NS:
        return status
    time.sleep((_TICK_NS - age_ns) / 1e9)
    return os.fstat(file.fileno())


def _digest(file: BinaryIO) -> bytes:
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()  # type: ignore[arg-type]


def _state(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


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
