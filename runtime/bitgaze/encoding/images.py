"""Load an image from any source: upright, RGB, resized to a model's input.

The one place where images are decoded and resized, for the runtime and for training alike: codes
are comparable only if their images went through the same steps.
"""

import hashlib
import io
import math
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bitgaze.encoding.costs import decoding_cost, is_decoded_in_python
from bitgaze.encoding.formats import (
    JPEG_XL,
    RAW,
    JpegXlFile,
    format_of,
    is_raw,
    prepare,
    raw_preview,
)
from bitgaze.encoding.headers import (
    MOST_BYTES_AT_ONCE,
    MOST_PIXELS,
    check_jpeg,
    check_pnm,
    readable_png,
)
from bitgaze.encoding.memory import Reservation, budget, trim
from bitgaze.encoding.properties import properties_of
from bitgaze.encoding.resizing import REDUCING_GAP, resized
from bitgaze.errors import ImageError


class ImageFile:
    """An image file as a source that is read once: what is decoded is what its digest is of.

    A source for one `load`, `upright` or `encode`, which opens the file in the thread that decodes.
    If the file changes, moves or is replaced meanwhile, that raises an ImageError, and the file is
    to be read again. Later changes of the path's file do not matter to the attributes.

    A file written within the last 20 ms (2 s where a file system keeps whole seconds) is read once
    that time is over.

    Attributes:
        path: of the file, as given.
        content: BLAKE2b digest of the file, 16 bytes; empty until it is read.
        size: in bytes; this and the two below are 0 until the file is read.
        mtime_ns: modification time in nanoseconds.
        ctime_ns: as `os.stat` gives it.
        has_changed: whether the file changed, moved or was replaced while it was read.
        properties: what the file says of itself, as `bitgaze.encoding.properties.properties_of`
            returns it; empty until the image is decoded.

    Args:
        path: of the file.
        is_tolerant: decode a JPEG whose end is missing, as far as it goes; the rest is grey. Its
            properties then have `truncated`, which is True.
    """

    def __init__(self, path: str | bytes | os.PathLike[str], *, is_tolerant: bool = False) -> None:
        self.path = os.fspath(path)
        self.is_tolerant = is_tolerant
        self.content = b""
        self.size = self.mtime_ns = self.ctime_ns = 0
        self.has_changed = False
        self.properties: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"ImageFile({self.path!r})"

    @contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """The file, open to be decoded; the attributes are set.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no regular file, or changed until the context ended.
        """
        with _Unmapped(self.path, _open_at_once) as file:
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

    def _compare(self, file: "_Unmapped", cause: Exception | None) -> None:
        was = self.size, self.mtime_ns, self.ctime_ns
        status = file.status()
        try:
            named = os.stat(self.path)  # noqa: PTH116 (may be bytes)
            self.has_changed = not _state(named) == _state(status) == was
            # Some network file systems have another inode number at each look.
            if not self.has_changed and not os.path.samestat(named, status):
                with _Unmapped(self.path, _open_at_once) as other:
                    self.has_changed = _digest(other) != self.content
        except OSError:
            self.has_changed = True
        if self.has_changed:
            raise ValueError("changed while it was being read") from cause


Box: TypeAlias = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image as a source: whatever takes an image takes the part as if it were one.

    Attributes:
        source: the image, any source but a region.
        box: left, top, right, bottom, in [0, 1] of the upright image. Its edges are moved out to
            whole pixels.

    Raises:
        TypeError: `source` is a region, or `box` is not four numbers.
        ValueError: the box has no area or reaches outside the image.
    """

    source: (
        "str | os.PathLike[str] | bytes | BinaryIO | ImageFile | Image.Image | NDArray[np.uint8]"
    )
    box: Box

    def __post_init__(self) -> None:
        if isinstance(self.source, Region):
            raise TypeError("the source of a region is a region; name the image and one box")
        try:
            left, top, right, bottom = map(float, self.box)
        except (TypeError, ValueError) as error:
            raise TypeError(f"box is {self.box!r}, expected (left, top, right, bottom)") from error
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError(
                f"box is {self.box!r}, expected left < right and top < bottom, all within 0..1 of "
                "the upright image"
            )
        object.__setattr__(self, "box", (left, top, right, bottom))


Source: TypeAlias = (
    str | os.PathLike[str] | bytes | BinaryIO | ImageFile | Image.Image | NDArray[np.uint8] | Region
)

# Pillow formats to decode, whatever the file's name. Pillow opens more, some of which are programs:
# it would run PostScript named .jpg in Ghostscript. TGA has no magic number, so it comes last; HEIF
# requires pillow-heif, and JPEG XL is not opened through Pillow: see formats.py.
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
# Those of which libjpeg decodes no more than it needs.
_DRAFTED = ("JPEG", "MPO")
# Those whose EXIF Pillow knows only once they are decoded.
_LATE = ("PNG", "JXL")
# Stored ones; those that are decoded have the same limit as in other formats.
_MOST_PIXELS_JPEG = 1_000_000_000
# Pixels, and bytes of the file, of what Pillow decodes in Python: a microsecond for each.
_MOST_SLOW = 16_000_000
# Far beyond panoramas and screenshots of whole pages. Decoders and Pillow keep some bytes for each
# row and column, nearly all there is to a strip: one of 1 x 178,956,970 grey pixels took 3.6 GB.
_LONGEST_SIDE = 1_000_000
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
# Of what is no regular file: a pipe, a device that never ends.
_STREAM_BYTES = 256_000_000
# File systems round times to a tick of the clock, 1 to 10 ms. A file written within the last tick
# could change again and keep its times.
_TICK_NS = 20_000_000
# Of exFAT and FAT, in two seconds; of HFS+ and older NFS servers, in one.
_LONG_TICK_NS = 2_000_000_000
# Two threads must not decode the same lazily opened PIL image, and callers may pass one twice.
_PIL_LOCK = threading.Lock()


def _after_fork() -> None:
    global _PIL_LOCK  # noqa: PLW0603 (another thread of the parent may have held it)
    _PIL_LOCK = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

_BITS_PER_SAMPLE, _S_MAX_SAMPLE_VALUE = 258, 341  # tags of TIFF
# A grey image of 16-bit samples that uses fewer is dark, rather than of fewer bits.
_LEAST_DEEP_BITS = 10

# Formats that lose detail and do not say how much.
_LOSING = frozenset(["WEBP", "AVIF", "JPEG2000", "GIF"])
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_KNOWN_RULES = {
    "filter": tuple(_FILTERS),
    "exif": ("upright",),
    "alpha": ("white",),
    "resize": ("stretch",),
    "depth": ("used", "stored"),
}
_LARGEST_INPUT = 4096
_ANIMATED, _MOST_FRAMES = ("GIF", "WEBP", "PNG"), 100
_MOST_FRAMES_PIXELS = 100_000_000  # of all of them, the first included
# Levels, of 256, that a band of a plain frame may vary.
_PLAIN = 8
_STRIP_PIXELS = 1 << 20
# Of a pixel: boxes may have been rounded to float32, or to 16 bits in a gallery.
_ROUNDING = 1 / 16
# The WebP decoder holds the canvas four times: 94 million pixels took 1.4 GB, from a file of 5 kB.
_MOST_PIXELS_WEBP = MOST_PIXELS // 4

_T = TypeVar("_T")


@dataclass(frozen=True)
class Preprocess:
    """The steps from an image to a model's input; part of the model's identity.

    Spelled out in full, so that a model file tells any program what to do. This version supports
    one value for most of them and refuses a file with another value rather than misread it.

    Attributes:
        size: side of the model's input in pixels, 1 to 4096.
        filter: "bilinear" or "bicubic", as Pillow computes them.
        exif: "upright": rotated and mirrored according to the EXIF orientation.
        alpha: "white": transparent images are composited on white.
        resize: "stretch": the whole image becomes a square. It keeps the edges, and finds more than
            a centre crop or padding does (docs/lab-notes.md).
        depth: what is white in greys of more than 8 bits, such as 12-bit values in a 16-bit file.
            "used": the largest value of the bits that the file declares, or else of the fewest, 10
            to 16, that hold all its values. "stored": 65,535, as in models exported before there
            was this rule, which say nothing of it. Colours of 16 bits are always read by their high
            bytes, all that Pillow gives of them: with 12-bit values they are nearly black, unless
            you scale them before.
    """

    size: int
    filter: str = "bicubic"
    exif: str = "upright"
    alpha: str = "white"
    resize: str = "stretch"
    depth: str = "used"

    def __post_init__(self) -> None:
        if type(self.size) is not int:
            raise TypeError(f"size is {self.size!r}, expected an integer")
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected at least 1")
        if self.size > _LARGEST_INPUT:
            raise ValueError(f"size is {self.size}, expected at most {_LARGEST_INPUT}")
        for name, known in _KNOWN_RULES.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r}, this version of bitgaze supports {known}")

    def entries(self) -> dict[str, Any]:
        """As a contract and the fingerprint hold them, which stay what they were for old models."""
        entries = asdict(self)
        if self.depth == "stored":
            del entries["depth"]
        return entries

    @classmethod
    def from_entries(cls, entries: Any) -> "Preprocess":
        """The inverse of `entries`.

        Raises:
            TypeError, ValueError: not the entries of a Preprocess.
        """
        return cls(**{"depth": "stored", **entries})


def within(box: Box, inner: Box) -> Box:
    """A box in [0, 1] of another box, in [0, 1] of what that one is a part of."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    return (
        left + inner[0] * width,
        top + inner[1] * height,
        left + inner[2] * width,
        top + inner[3] * height,
    )


def load(source: Source, preprocess: Preprocess) -> NDArray[np.uint8]:
    """Load an image as a model's input.

    Args:
        source: a path, the content of an image file, a file that is open to read bytes, such as
            `io.BytesIO` (read from its start), an `ImageFile`, a PIL image, a `Region` of one of
            these, or a uint8 array:
            (height, width) grey, (height, width, 3) RGB or (height, width, 4) RGBA. Files are never
            mapped into memory: one that is shortened while it is read is an ImageError. Only a PIL
            image that the caller opened by name is read as Pillow does, which may map its file.
        preprocess: of the model; its size, filter and depth apply.

    Returns:
        uint8, shape (size, size, 3), RGB, upright, C-contiguous. Of an animation (GIF, WebP, PNG)
        the first frame; if that is of one colour, the first of 100 frames, and of 100
        million pixels in all, that is not. Colour profiles do not matter.

    Raises:
        ImageError: the image cannot be read; or it has more than 178,956,970 pixels (a quarter of
            that for WebP; of a JPEG, only those count that are decoded at a reduced scale, and it
            may store a billion) or 1,000,000 on a side, takes more memory than the budget of
            decoded bytes (`bitgaze.encoding.memory`), or is of a kind that Pillow decodes in Python
            (QOI, some BMP and PPM) and has more than 16 million pixels or bytes.
        TypeError: `source` is none of the above.
        ValueError: an array of a different shape.
    """
    return with_upright(
        source,
        preprocess.size,
        lambda image: prepared(image, preprocess),
        depth=preprocess.depth,
    )


def prepared(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """An image as `upright` returns it as a model's input, which is what `load` returns."""
    square = (preprocess.size, preprocess.size)
    return np.array(resized(image, square, _FILTERS[preprocess.filter]))


def part(image: Image.Image, box: Box) -> Image.Image:
    """The part of an image in a box, with its edges moved out to whole pixels.

    Args:
        image: of any mode.
        box: left, top, right, bottom, in [0, 1] of the image.
    """
    edges: list[tuple[int, int]] = []
    for low, high, side in zip(box[:2], box[2:], image.size, strict=True):
        # Rounded, 3 / 28 of 28 pixels may come to a little more than 3.
        first = min(math.floor(low * side + _ROUNDING), side - 1)
        edges.append((first, max(math.ceil(high * side - _ROUNDING), first + 1)))
    (left, right), (top, bottom) = edges
    return image.crop((left, top, right, bottom))


def upright(source: Source, shorter_side: int) -> Image.Image:
    """Load a whole image, upright and RGB; a large JPEG is decoded at a reduced scale.

    The image is no longer part of the budget of decoded bytes; `with_upright` and `fitted` keep the
    memory of many threads within it.

    Args:
        source: as for `load`.
        shorter_side: required length of the result's shorter side, in pixels. It is at least this
            long, unless the image itself is smaller.

    Raises:
        ImageError, TypeError, ValueError: as for `load`.
    """
    return with_upright(source, shorter_side, Image.Image.copy, copies=1)


def fitted(
    source: Source, side: int, shorter_side: int | None = None, depth: str = "used"
) -> Image.Image:
    """Load an image, upright and RGB, shrunk to fit a square, within the budget of decoded bytes.

    Args:
        source: as for `load`.
        side: of the square, in pixels. A smaller image keeps its size.
        shorter_side: as for `upright`; by default `side`.
        depth: as for `Preprocess`.

    Raises:
        ImageError, TypeError, ValueError: as for `load`.
    """

    def shrunk(image: Image.Image) -> Image.Image:
        image.thumbnail((side, side))
        return image.copy()  # a plain image, that does not hold a decoder

    return with_upright(source, shorter_side or side, shrunk, depth=depth)


def with_upright(
    source: Source,
    shorter_side: int,
    work: Callable[[Image.Image], _T],
    copies: int = 0,
    depth: str = "used",
) -> _T:
    """Do something with an image that is decoded within the budget of decoded bytes.

    Args:
        source: as for `load`.
        shorter_side: as for `upright`.
        work: called with the image as `upright` returns it, which it may change, but must not keep.
        copies: of the whole image that `work` makes.
        depth: as for `Preprocess`.

    Returns:
        What `work` returns.

    Raises:
        ImageError, TypeError, ValueError: as for `load`.
    """
    if is_open_file(source):
        source = content_of(source)
    if isinstance(source, Region):
        return _with_region(source, shorter_side, work, copies, depth)
    reservation = Reservation(budget())
    try:
        try:
            return _with_upright(source, shorter_side, work, copies, depth, reservation)
        finally:
            trim(reservation.budget.parts.get(reservation, 0))
    finally:
        reservation.budget.parts.pop(reservation, None)
        reservation.wake_others()


def is_open_file(source: object) -> TypeGuard[BinaryIO]:
    """Whether a source is a file object: something with a method `read`."""
    return callable(getattr(source, "read", None))


def content_of(file: BinaryIO) -> bytes:
    """All of a file object, from its start if it can go there; it stays open.

    Raises:
        ImageError: it cannot be read, or has more than 256 MB.
        TypeError: it is open as text.
    """
    try:
        if file.seekable():
            file.seek(0)
        content = file.read(_STREAM_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"a file object: {_reason(error)}") from error
    if not isinstance(content, bytes):
        raise TypeError(
            "an image is read from a file that is open as bytes; open it with mode 'rb'"
        )
    if len(content) > _STREAM_BYTES:
        raise ImageError(f"a file object of more than {_STREAM_BYTES} bytes; name the file instead")
    return content


def _with_region(
    region: Region, shorter_side: int, work: Callable[[Image.Image], _T], copies: int, depth: str
) -> _T:
    left, top, right, bottom = region.box
    # So long that the region's own shorter side is long enough.
    needed = math.ceil(min(shorter_side / min(right - left, bottom - top), _LONGEST_SIDE))
    return with_upright(
        region.source,
        needed,
        lambda image: work(part(image, region.box)),
        copies=copies + 1,
        depth=depth,
    )


def _with_upright(
    source: Source,
    shorter_side: int,
    work: Callable[[Image.Image], _T],
    copies: int,
    depth: str,
    reservation: Reservation,
) -> _T:
    if isinstance(source, np.ndarray):
        _check_array(source)
        reservation.take_some(5 * source.size)
        return work(_rgb(Image.fromarray(source)).copy())
    if isinstance(source, Image.Image):
        try:
            # In memory already, or about to be decoded as its owner has opened it.
            reservation.take_some(decoding_cost(source, 0, copies=copies + 1))
            with _PIL_LOCK:
                source.load()
                orientation = _orientation(source)
            image = _turned(_rgb(source, depth), orientation)
            image = image.copy() if image is source else image
        except Exception as error:  # a lazily opened image is decoded here; see _opened
            raise ImageError(f"PIL image: {_reason(error)}") from error
        return work(image)
    if not isinstance(source, str | os.PathLike | bytes | bytearray | memoryview | ImageFile):
        raise TypeError(
            f"an image is a path, bytes, PIL.Image or numpy array, not {type(source).__name__}"
        )
    with _opened(source) as opened:
        image = opened.image
        stored = image.width * image.height
        if image.format in _DRAFTED and stored > _MOST_PIXELS_JPEG:
            raise ValueError(
                f"{image.width} x {image.height} pixels, the maximum for a JPEG is "
                f"{_MOST_PIXELS_JPEG}"
            )
        # Before the draft and before Pillow turns a TIFF; of some it decodes the pixels to look.
        if isinstance(source, ImageFile) and image.format not in _LATE:
            source.properties = properties_of(image) | opened.properties
        _draft(image, shorter_side)
        _check_size(image, opened.file_bytes)
        cost = decoding_cost(
            image,
            opened.file_bytes,
            coefficients=stored if opened.keeps_coefficients else 0,
            is_turned=opened.may_be_turned,
            is_animated=_is_animated(image),
            copies=copies,
        )
        try:
            reservation.take(cost)
        except ValueError as error:
            raise ValueError(f"{image.width} x {image.height} pixels: {error}") from error
        if isinstance(source, ImageFile) and source.is_tolerant and image.format in _DRAFTED:
            _end_early(image, source)
        image.load()
        if isinstance(source, ImageFile) and image.format in _LATE:
            source.properties = properties_of(image)
        _skip_plain_frames(image)
        # Only now: Pillow turns some TIFF files itself.
        return work(_turned(_rgb(image, depth, opened.grey_bits), _orientation(image)))


def dimensions(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Read width and height of an image file in pixels, before EXIF rotation, without decoding it.

    Args:
        source: a path, or the content of an image file.

    Raises:
        ImageError: the file cannot be read or is not an image.
    """
    with _opened(source) as opened:
        return opened.image.size


class Header(NamedTuple):
    """What an image file's headers say of its quality and its past.

    Attributes:
        size: (width, height) in pixels, before EXIF rotation.
        steps: quantisation steps of brightness, 64 by row; all 1 in a format that loses nothing;
            None if they cannot be read (WebP, AVIF, JPEG 2000, GIF).
        is_jpeg: whether the steps are a JPEG's.
        has_exif: whether there is an EXIF block.
        is_turned: whether the EXIF block turns or mirrors the image.
    """

    size: tuple[int, int]
    steps: tuple[int, ...] | None
    is_jpeg: bool
    has_exif: bool
    is_turned: bool


def header(source: str | os.PathLike[str]) -> Header:
    """Read the headers of an image file, without decoding it.

    Raises:
        ImageError: the file cannot be read or is not an image.
    """
    with _opened(source) as opened:
        image = opened.image
        tables = getattr(image, "quantization", None)
        steps = tuple(tables[min(tables)]) if tables else None
        if steps is None and image.format not in _LOSING:
            steps = (1,) * 64
        has_exif = bool(image.info.get("exif"))
        return Header(image.size, steps, bool(tables), has_exif, opened.may_be_turned)


class _Opened(NamedTuple):
    """An image file that is open, and what its headers say."""

    image: Image.Image
    file_bytes: int
    keeps_coefficients: bool
    may_be_turned: bool
    grey_bits: int | None = None  # of a PNG, as its sBIT chunk says
    properties: dict[str, Any] = {}  # noqa: RUF012 (nobody changes it) of the file, not the image


@contextmanager
def _opened(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | ImageFile,
) -> Iterator[_Opened]:
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
        with _stream(source) as stream:
            file_bytes = stream.seek(0, io.SEEK_END)
            opened = _identified(stream, file_bytes)
            try:
                yield opened
            finally:
                # Pixels and decoder, which an error's traceback would keep.
                vars(opened.image).clear()
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image that bitgaze reads") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name}: a folder; name an image in it") from error
    except Exception as error:
        raise ImageError(f"{name}: {_reason(error)}") from error


def _identified(stream: BinaryIO, file_bytes: int) -> _Opened:
    """An image that is open, not decoded."""
    stream.seek(0)
    start = stream.read(64)
    if start.startswith(b"\xff\xd8\xff"):
        return _identified_jpeg(stream, file_bytes)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        stream, may_be_turned, grey_bits = readable_png(stream)
        # Not _orientation: Pillow decodes a PNG to look for one.
        png = Image.open(stream, formats=["PNG"])
        return _Opened(png, file_bytes, False, may_be_turned, grey_bits)
    kind = format_of(start)
    if kind is None and start[:4] in (b"II*\0", b"MM\0*") and is_raw(stream):
        kind = RAW
    # Their decoders copy the file before they know its pixels.
    is_copied = kind is not None or start[8:12] == b"WEBP" or start[4:8] == b"ftyp"
    if is_copied and file_bytes > MOST_BYTES_AT_ONCE:
        raise ValueError(
            f"{file_bytes} bytes, the maximum for WebP, AVIF, HEIC, JPEG XL and RAW is "
            f"{MOST_BYTES_AT_ONCE}"
        )
    if kind == RAW:
        return _identified_preview(stream, file_bytes)
    if kind is not None:
        prepare(kind)
    if kind == JPEG_XL:
        stream.seek(0)
        return _Opened(JpegXlFile(stream), file_bytes, False, True)
    if start[:1] == b"P":
        check_pnm(stream)
    formats = [format for format in _FORMATS if format in Image.OPEN]
    image = Image.open(stream, formats=formats)
    return _Opened(image, file_bytes, False, _orientation(image) in _UPRIGHT)


def _identified_jpeg(stream: BinaryIO, file_bytes: int) -> _Opened:
    keeps_coefficients = check_jpeg(stream)
    stream.seek(0)
    try:
        # Not by Image.open, which has a limit on stored pixels: most need not be decoded.
        jpeg = Image.OPEN["JPEG"][0](stream, "")
        return _Opened(jpeg, file_bytes, keeps_coefficients, _orientation(jpeg) in _UPRIGHT)
    except (SyntaxError, IndexError, TypeError, struct.error) as error:
        raise UnidentifiedImageError from error


def _identified_preview(stream: BinaryIO, file_bytes: int) -> _Opened:
    """The preview in a RAW file, with the file's EXIF where it has none of its own."""
    preview = raw_preview(stream)
    width, height = preview.size
    properties = {"width": width, "height": height, "format": RAW}
    if preview.jpeg is None:
        assert preview.bitmap is not None
        opened = _Opened(preview.bitmap, 0, False, True, None, properties)
    else:
        opened = _identified_jpeg(io.BytesIO(preview.jpeg), file_bytes + len(preview.jpeg))
        opened = opened._replace(may_be_turned=True, properties=properties)
    if preview.exif and "exif" not in opened.image.info:
        opened.image.info["exif"] = preview.exif
        opened.image.getexif().load(preview.exif)
    return opened


@contextmanager
def _stream(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview | ImageFile,
) -> Iterator[BinaryIO]:
    if isinstance(source, ImageFile):
        with source.opened() as stream:
            yield stream
    elif isinstance(source, str | os.PathLike):
        with _Unmapped(source) as file:
            if stat.S_ISREG(file.status().st_mode):
                yield file
                return
            content = file.read(_STREAM_BYTES + 1)  # of a pipe, for example
        if len(content) > _STREAM_BYTES:
            raise ValueError(f"not a regular file, and more than {_STREAM_BYTES} bytes")
        yield io.BytesIO(content)
    else:
        yield io.BytesIO(source)


class _Unmapped(io.BufferedReader):
    """A file that nobody can map into memory, since it has neither name nor descriptor to give.

    Pillow maps files that it opens by name, and libtiff those of a descriptor. If such a file is
    then shortened, SIGBUS ends the process; here the image is truncated, which is an ImageError.
    """

    def __init__(
        self,
        path: str | bytes | os.PathLike[str],
        opener: Callable[[str, int], int] | None = None,
    ) -> None:
        self._file = io.FileIO(os.fspath(path), opener=opener)
        super().__init__(self._file)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def status(self) -> os.stat_result:
        return os.fstat(self._file.fileno())


def _open_at_once(path: str, flags: int) -> int:
    """Opener that does not wait for a pipe's writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _settled(file: _Unmapped) -> os.stat_result:
    """Status of a regular file, taken so late that any change after it shows in the times.

    Raises:
        ValueError: not a regular file.
    """
    status = file.status()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    is_whole = status.st_mtime_ns % 1_000_000_000 == status.st_ctime_ns % 1_000_000_000 == 0
    tick_ns = _LONG_TICK_NS if is_whole else _TICK_NS
    age_ns = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
    if not 0 <= age_ns < tick_ns:
        return status
    time.sleep((tick_ns - age_ns) / 1e9)
    return file.status()


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


def _check_array(array: NDArray[Any]) -> None:
    if array.dtype != np.uint8:
        raise TypeError(f"an image array must be uint8, not {array.dtype}")
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            "an image array must have shape (height, width), (height, width, 3) or "
            f"(height, width, 4), not {array.shape}"
        )


def _is_animated(image: Any) -> bool:
    return image.format in _ANIMATED and getattr(image, "is_animated", False)


def _skip_plain_frames(image: Any) -> None:
    """Go on to the first frame of an animation that is not of one colour, if the first one is.

    Many fade in from black, which would give all of them one code.
    """
    if not _is_animated(image) or not _is_plain(image):
        return
    most = min(_MOST_FRAMES, _MOST_FRAMES_PIXELS // (image.width * image.height))
    # EOFError behind the last frame; on a damaged one nearly anything, see _opened.
    with suppress(Exception):
        for frame in range(1, most):
            image.seek(frame)
            image.load()
            if not _is_plain(image):
                return
    image.seek(0)
    image.load()


def _is_plain(image: Any) -> bool:
    """Whether all pixels have about one colour, or none is visible."""
    if image.mode == "P":
        palette = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
        indices = [index for _, index in image.getcolors(256) or ()]
        used = palette[[index for index in indices if index < len(palette)]]
        return len(used) == 0 or bool(np.ptp(used, axis=0).max() <= _PLAIN)
    bands = dict(zip(image.getbands(), np.reshape(image.getextrema(), (-1, 2)), strict=True))
    if "A" in bands and bands.pop("A")[1] == 0:
        return True
    return all(high - low <= _PLAIN for low, high in bands.values())


def _end_early(image: Any, source: ImageFile) -> None:
    """Let a JPEG whose end is missing end where it does; libjpeg makes the rest grey.

    Pillow can do that for all images of a process, and does not tell of which it did.
    """
    read = image.load_read

    def load_read(size: int) -> bytes:
        piece: bytes = read(size)
        if not piece and "truncated" not in source.properties:
            source.properties["truncated"] = True
            return b"\xff\xd9"
        return piece

    image.load_read = load_read


def _draft(image: Image.Image, shorter_side: int) -> None:
    """Let a JPEG decode at 1/2, 1/4 or 1/8 of its size, leaving enough pixels for the filter."""
    if image.format not in _DRAFTED:  # a HEIC image would become its thumbnail
        return
    width, height = image.size
    scale = REDUCING_GAP * shorter_side / min(width, height)
    if scale < 1:
        image.draft(None, (round(width * scale), round(height * scale)))


def _check_size(image: Image.Image, file_bytes: int) -> None:
    """Refuse what would be a huge image: a file of a few bytes can claim to hold gigabytes."""
    pixels = image.width * image.height
    if max(image.size) > _LONGEST_SIDE:
        raise ValueError(
            f"{image.width} x {image.height} pixels, the maximum for a side is {_LONGEST_SIDE}"
        )
    most = _MOST_PIXELS_WEBP if image.format == "WEBP" else MOST_PIXELS
    if image.format in _DRAFTED and Image.MAX_IMAGE_PIXELS is not None:
        most = min(most, 2 * Image.MAX_IMAGE_PIXELS)  # as Pillow limits other formats
    if pixels > most:
        raise ValueError(
            f"{image.width} x {image.height} pixels, the maximum is {most} in total; "
            "downscale it first and pass a PIL image"
        )
    if is_decoded_in_python(image) and max(pixels, file_bytes) > _MOST_SLOW:
        raise ValueError(
            f"{image.width} x {image.height} pixels in {file_bytes} bytes, the maximum for this "
            f"slow kind of {image.format} is {_MOST_SLOW} of both; save it as PNG"
        )


def _rgb(image: Image.Image, depth: str = "used", grey_bits: int | None = None) -> Image.Image:
    """Convert from any of Pillow's modes to RGB, compositing transparency on white.

    An image that is RGB already is returned itself. `depth` is as for `Preprocess`, `grey_bits` of
    a PNG as its sBIT chunk says.
    """
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image, depth, grey_bits).convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    # In strips, since the four copies that compositing makes of a whole image dominated memory.
    rgb = Image.new("RGB", image.size, None)  # filling it lets no other thread run
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_on_white(strip), (0, top))
    if "icc_profile" in image.info:
        rgb.info["icc_profile"] = image.info["icc_profile"]
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


def _eight_bit(image: Image.Image, depth: str, grey_bits: int | None) -> Image.Image:
    """Scale high-depth greys to 8 bits, where Pillow's own conversion clips them at 255.

    The transparent value becomes white.

    Raises:
        ValueError: a sample is out of range or NaN.
    """
    values: NDArray[np.float32] = np.asarray(image).astype(np.float32)
    low, high = values.min(), values.max()  # NaN if any sample is
    most: float = 1 if image.mode == "F" else 65535
    if image.mode == "F" and depth == "used":
        most = max(most, _declared_most(image) or 0)
    if not 0 <= low <= high <= most:
        raise ValueError(
            f"samples are in {low:g}..{high:g}, expected 0..{most:g} in mode {image.mode}"
        )
    key = image.info.get("transparency")
    transparent = values == key if isinstance(key, int) else None
    white = most
    if image.mode == "I" and high <= 255:
        white = 255
    elif image.mode != "F" and depth == "used":
        if transparent is not None:
            high = np.max(values, where=~transparent, initial=0)
        white = _white(image, int(high), grey_bits)
    if transparent is not None:
        values[transparent] = white
    if white == 65535:
        values /= 257  # as older versions did, to the bit
    elif white != 255:
        values *= 255 / white
    return Image.fromarray(values.round().astype(np.uint8))


def _white(image: Image.Image, high: int, grey_bits: int | None) -> int:
    """The value of white in integer greys whose largest value is `high`."""
    tags = getattr(image, "tag_v2", {})
    stored = tags.get(_BITS_PER_SAMPLE, (16,))
    declared: int | None = stored[0] if isinstance(stored, tuple) else stored
    if declared is None or declared >= 16:  # the size of a sample in the file, which tells nothing
        most = _declared_most(image)
        declared = int(most).bit_length() if most else grey_bits
    # A PNG's values should be shifted up to 16 bits, but some programs leave them where they are.
    if declared is not None and high < 1 << declared <= 1 << 16:
        return (1 << declared) - 1
    if grey_bits is not None:
        return 65535
    return (1 << min(max(high.bit_length(), _LEAST_DEEP_BITS), 16)) - 1


def _declared_most(image: Image.Image) -> float | None:
    """The largest sample that a TIFF file declares, if it does (SMaxSampleValue)."""
    most = getattr(image, "tag_v2", {}).get(_S_MAX_SAMPLE_VALUE)
    most = most[0] if isinstance(most, tuple) and most else most
    return float(most) if isinstance(most, int | float) and 0 < most < float("inf") else None


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
