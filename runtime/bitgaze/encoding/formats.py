"""Formats that Pillow reads only with another package: HEIC, JPEG XL, and previews of RAW files.

A package is imported once a file of its format is opened. Knows what an image file is by its name,
and by its first bytes; images.py decodes.
"""

import io
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePath
from typing import IO, Any, BinaryIO, NamedTuple

from PIL import ExifTags, Image, ImageFile

from bitgaze.errors import ImageError

HEIC, JPEG_XL, RAW = "HEIC", "JPEG XL", "RAW"
# Format to the extra of bitgaze that reads it, and the module that this extra installs.
EXTRAS = {HEIC: "heic", JPEG_XL: "jxl", RAW: "raw"}
_MODULES = {HEIC: "pillow_heif", JPEG_XL: "pillow_jxl", RAW: "rawpy"}

# fmt: off
_HEIC_SUFFIXES = frozenset([".heic", ".heif", ".hif"])
_RAW_SUFFIXES = frozenset(
    [
        ".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef",
        ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".rwl", ".sr2", ".srf",
        ".srw", ".x3f",
    ]
)
_PILLOW_SUFFIXES = frozenset(
    [
        ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
        ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp",
    ]
)
# File name extensions that count as images, whether or not the package that reads them is there.
SUFFIXES = _PILLOW_SUFFIXES | _HEIC_SUFFIXES | _RAW_SUFFIXES | {".jxl"}
# Of images that bitgaze does not read; listing them gets them counted rather than silently missed.
OTHER_SUFFIXES = frozenset(
    [
        ".ai", ".cdr", ".eps", ".exr", ".hdr", ".indd", ".kra", ".pcx", ".psb", ".psd", ".svg",
        ".xcf",
    ]
)
# fmt: on

_JXL_CODESTREAM = b"\xff\x0a"
_JXL_CONTAINER = b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"
# TIFF, and what Olympus and Panasonic write in its place.
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_RAW_STARTS = (b"IIRO", b"IIRS", b"IIU\0", b"FUJIFILM", b"FOVb", b"\0MRM")
_DNG_VERSION, _NEW_SUBFILE_TYPE, _SUB_IFDS = 50706, 254, 330
_HEAD_BYTES, _MOST_BOXES = 64, 1000
# Ratio of width to height, by its number in a JPEG XL header.
_JXL_RATIOS = {1: (1, 1), 2: (6, 5), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_JXL_SIZE_BITS = (9, 13, 18, 30)
_ORIENTATIONS = {3: 3, 5: 8, 6: 6}  # LibRaw's flip to EXIF's orientation


class Preview(NamedTuple):
    """The preview that a RAW file holds, and what the file says of the whole image.

    Attributes:
        jpeg: an image file; or None.
        bitmap: an image in memory, where `jpeg` is None.
        exif: of the RAW file, as bytes of EXIF; empty if there is none that can be read.
        size: width and height of the whole image in pixels, upright.
    """

    jpeg: bytes | None
    bitmap: Image.Image | None
    exif: bytes
    size: tuple[int, int]


def format_of(head: bytes) -> str | None:
    """The format that a file begins with, of those in `EXTRAS`; None for any other.

    A RAW file that begins like a TIFF file is not told from one: see `is_raw`.

    Args:
        head: at least the first 64 bytes of the file, or all of them.
    """
    if head.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)):
        return JPEG_XL
    if head[4:8] == b"ftyp":
        length = int.from_bytes(head[:4], "big")
        brands = head[8 : min(length, _HEAD_BYTES)]
        if brands.startswith(b"crx "):
            return RAW
        return None if b"avi" in brands else HEIC
    return RAW if head.startswith(_RAW_STARTS) else None


def is_raw(stream: BinaryIO) -> bool:
    """Whether a file that begins like TIFF is a RAW file; leaves the stream anywhere.

    Those of DNG say so, those of Canon too; in the others, the first image is marked as a reduced
    one, and the others are in sub-directories.
    """
    stream.seek(0)
    head = stream.read(16)
    if not head.startswith(_TIFF_STARTS):
        return False
    if head[8:10] == b"CR":
        return True
    tags = _tiff_tags(stream)
    is_reduced = tags.get(_NEW_SUBFILE_TYPE) == 1 and _SUB_IFDS in tags
    return _DNG_VERSION in tags or (is_reduced and ExifTags.Base.Make in tags)


def unread_format(path: str) -> str | None:
    """The format of an image file, if the package that reads it is missing; else None.

    Opens the file only if its name is one of such a format: many are JPEG inside.

    Args:
        path: of the file.

    Raises:
        OSError: it cannot be read.
    """
    named = format_named(path)
    if named is None or is_installed(named):
        return None
    with open(path, "rb") as file:  # noqa: PTH123 (surrogates)
        found = format_of(file.read(_HEAD_BYTES))
        if found is None and named == RAW and is_raw(file):
            found = RAW
    return None if found is None or is_installed(found) else found


def format_named(path: str) -> str | None:
    """The format, of those in `EXTRAS`, that a file name ends like."""
    suffix = PurePath(path).suffix.lower()
    if suffix in _HEIC_SUFFIXES:
        return HEIC
    if suffix in _RAW_SUFFIXES:
        return RAW
    return JPEG_XL if suffix == ".jxl" else None


@cache
def is_installed(name: str) -> bool:
    """Whether the package that reads a format is installed."""
    return find_spec(_MODULES[name]) is not None


def prepare(name: str) -> Any:
    """Import the package that reads a format, and let Pillow know of it; returns its module.

    Raises:
        ImageError: it is not installed; the message says how to install it.
    """
    if not is_installed(name):
        raise ImageError(f"{name} image: {advice(name)}")
    return _imported(name)


@cache
def _imported(name: str) -> Any:
    module = import_module(_MODULES[name])
    if name == HEIC:
        module.register_heif_opener()
    return module


def advice(name: str) -> str:
    """The command that installs what reads a format."""
    return f"pip install 'bitgaze[{EXTRAS[name]}]'"


class JpegXlFile(ImageFile.ImageFile):
    """A JPEG XL image whose size is known before it is decoded, as that of others is.

    The package's own class decodes the image when it is opened.
    """

    format = "JXL"
    format_description = "JPEG XL"

    def _open(self) -> None:
        assert self.fp is not None
        self._size = jpeg_xl_size(self.fp)
        self._mode = "RGB"  # until it is decoded
        self.tile = []
        self._is_decoded = False

    def load(self) -> Any:
        """Decode the image: mode, EXIF and colour profile are known afterwards."""
        if self._is_decoded:
            return super().load()
        assert self.fp is not None
        self.fp.seek(0)
        plugin = prepare(JPEG_XL).JpegXLImagePlugin
        with plugin.JXLImageFile(io.BytesIO(self.fp.read())) as decoded:
            if sorted(decoded.size) != sorted(self.size):
                raise ValueError(f"its header says {self.size}, but it is {decoded.size}")
            decoded.load()
            is_turned = not decoded.jpeg  # then EXIF's orientation has been obeyed
            exif = decoded.getexif()
            self.im, self._mode, self._size = decoded.im, decoded.mode, decoded.size
            self.info = dict(decoded.info)
        if is_turned and exif.pop(ExifTags.Base.Orientation, None) is not None:
            self.info["exif"] = exif.tobytes()
        self._is_decoded = True
        return super().load()


def jpeg_xl_size(stream: IO[bytes]) -> tuple[int, int]:
    """Width and height of a JPEG XL image before it is turned upright; ISO/IEC 18181-1, D.2.

    Raises:
        ValueError: it does not begin as such an image.
    """
    stream.seek(0)
    if stream.read(12) == _JXL_CONTAINER:
        _find_codestream(stream)
    else:
        stream.seek(0)
    head = stream.read(2 + 10)
    if not head.startswith(_JXL_CODESTREAM):
        raise ValueError("not a JPEG XL image")
    bits, position = int.from_bytes(head[2:], "little"), 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return bits >> (position - count) & ((1 << count) - 1)

    is_small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_JXL_SIZE_BITS[take(2)]) + 1

    height = side()
    ratio = take(3)
    if ratio:
        across, down = _JXL_RATIOS[ratio]
        return height * across // down, height
    return side(), height


def _find_codestream(stream: IO[bytes]) -> None:
    """Go to the image in the boxes of a container."""
    for _ in range(_MOST_BOXES):
        start = stream.tell()
        head = stream.read(8)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(stream.read(8), "big")
        if head[4:] in (b"jxlc", b"jxlp"):
            stream.seek(4 if head[4:] == b"jxlp" else 0, io.SEEK_CUR)
            return
        if len(head) < 8 or length < 8:
            break
        stream.seek(start + length)
    raise ValueError("a JPEG XL file without an image")


def raw_preview(stream: BinaryIO) -> Preview:
    """The largest preview in a RAW file; the sensor's data are not developed.

    Raises:
        ImageError: rawpy is not installed.
        ValueError: there is no preview, or the file is damaged.
    """
    rawpy = prepare(RAW)
    stream.seek(0)
    content = stream.read()
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            thumb = raw.extract_thumb()
            sizes = raw.sizes
            width, height, flip = sizes.width, sizes.height, sizes.flip
    except rawpy.LibRawNoThumbnailError as error:
        raise ValueError("a RAW image without a preview inside") from error
    except rawpy.LibRawError as error:
        raise ValueError(f"a RAW image that LibRaw cannot read: {error}") from error
    size = (height, width) if flip in (5, 6) else (width, height)
    exif = _tiff_exif(content)
    if exif is not None and exif.get(ExifTags.Base.Orientation) is None and flip in _ORIENTATIONS:
        exif[ExifTags.Base.Orientation] = _ORIENTATIONS[flip]
    packed = b"" if exif is None else exif.tobytes()
    if thumb.format == rawpy.ThumbFormat.JPEG:
        return Preview(bytes(thumb.data), None, packed, size)
    return Preview(None, Image.fromarray(thumb.data), packed, size)


def _tiff_exif(content: bytes) -> Image.Exif | None:
    """EXIF of a RAW file that is made like TIFF, without its pixels and the maker's notes."""
    if not content.startswith(_TIFF_STARTS):
        return None
    kept = Image.Exif()
    try:
        found = Image.Exif()
        found.load_from_fp(io.BytesIO(content))
        base = ExifTags.Base
        for tag in (base.Make, base.Model, base.DateTime, base.Orientation):
            if tag in found:
                kept[tag] = found[tag]
        camera = found.get_ifd(ExifTags.IFD.Exif)
        for tag in (base.DateTimeOriginal, base.DateTimeDigitized, base.LensModel):
            if tag in camera:
                kept.get_ifd(ExifTags.IFD.Exif)[tag] = camera[tag]
        kept.get_ifd(ExifTags.IFD.GPSInfo).update(found.get_ifd(ExifTags.IFD.GPSInfo))
        kept.tobytes()
    except Exception:  # Pillow raises nearly anything for damaged EXIF
        return None
    return kept


def _tiff_tags(stream: BinaryIO) -> Mapping[int, int]:
    """Tags of the first directory of a TIFF file, with the first number of each."""
    stream.seek(0)
    head = stream.read(8)
    order: Any = "little" if head[:2] == b"II" else "big"
    stream.seek(int.from_bytes(head[4:8], order))
    count = int.from_bytes(stream.read(2), order)
    entries = stream.read(12 * count)
    tags: dict[int, int] = {}
    for start in range(0, len(entries) - 11, 12):
        entry = entries[start : start + 12]
        kind = int.from_bytes(entry[2:4], order)
        value = entry[8:10] if kind == 3 else entry[8:12]
        tags[int.from_bytes(entry[:2], order)] = int.from_bytes(value, order)
    return tags
