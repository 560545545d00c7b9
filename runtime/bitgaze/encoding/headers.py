"""What the headers of an image file ask of a decoder, bounded before Pillow follows them.

Pillow reads headers in Python, byte by byte, and decoders go over an image as often as a file says:
files of a few kilobytes could keep a core busy for minutes. Every limit is far from what cameras
and programs write.
"""

import io
import re
import struct
import zlib
from typing import BinaryIO

from PIL import JpegImagePlugin, PngImagePlugin

# Bytes of a file that is read into memory as a whole before its decoding cost is known.
MOST_BYTES_AT_ONCE = 100_000_000
# Pillow refuses more (twice its MAX_IMAGE_PIXELS), unless a program has lifted that limit.
MOST_PIXELS = 178_956_970

# Programs write about ten; each goes over the whole image.
_MOST_SCANS = 100
_MOST_SEGMENTS = 10_000
# Bytes between the segments of a JPEG's header.
_MOST_PADDING = 65_536
_FRAMES = frozenset(
    [*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)]
)
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PIECE_BYTES, _SMALL_PIECE_BYTES = 1 << 20, 1 << 16
_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_MOST_CHUNKS, _MOST_IMAGE_CHUNKS = 10_000, 1_000_000
_IMAGE_CHUNKS = frozenset([b"IDAT", b"fcTL", b"fdAT"])

_PNM_HEADER_BYTES = 65_536
_MOST_COMMENTS = 1_000


def check_jpeg(stream: BinaryIO) -> bool:
    """Check what a JPEG file asks of Pillow and libjpeg.

    Args:
        stream: at any position; left at another.

    Returns:
        Whether the image comes in several scans, so that all its coefficients are kept in memory.

    Raises:
        ValueError: more scans, segments or padding than any program writes.
    """
    stream.seek(2)
    padding = segments = pixels = components = 0
    is_progressive = False
    while True:
        byte = stream.read(1)
        while byte and byte != b"\xff":  # as Pillow skips it
            padding, byte = _padded(padding), stream.read(1)
        while byte == b"\xff":
            byte = stream.read(1)
            padding = _padded(padding) if byte == b"\xff" else padding
        if not byte:
            return False
        code = byte[0]
        if code == 0:
            padding = _padded(padding)
            continue
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise ValueError(f"a JPEG with more than {_MOST_SEGMENTS} segments in its header")
        known = JpegImagePlugin.MARKER.get(0xFF00 | code)
        if known is None:
            return False  # Pillow says that it is broken
        if known[2] is None:
            continue
        length = int.from_bytes(stream.read(2), "big")
        head = stream.read(min(max(length - 2, 0), 6))
        if code == _START_OF_SCAN:
            if not head or (not is_progressive and head[0] >= components):
                return False
            stream.seek(length - 2 - len(head), io.SEEK_CUR)
            _check_scans(stream, pixels)
            return True
        if code in _FRAMES and len(head) == 6:
            _, height, width, components = struct.unpack(">BHHB", head)
            pixels = height * width
            is_progressive = code in (0xC2, 0xC6, 0xCA, 0xCE)
        stream.seek(max(length - 2 - len(head), 0), io.SEEK_CUR)


def _padded(padding: int) -> int:
    if padding == _MOST_PADDING:
        raise ValueError(f"a JPEG with more than {_MOST_PADDING} bytes between its segments")
    return padding + 1


def _check_scans(stream: BinaryIO, pixels: int) -> None:
    """Count the scans of a JPEG, piece by piece: any number of bytes may follow the image.

    Args:
        stream: at the first scan's data.
        pixels: of the image as it is stored.
    """
    start = stream.tell()
    scans, last = 1, b""
    while scans <= _MOST_SCANS and (piece := stream.read(_PIECE_BYTES)):
        scans += (last + piece).count(bytes([0xFF, _START_OF_SCAN]))
        last = piece[-1:]
    if scans > _MOST_SCANS:  # some may be in other segments, or in another image after this one
        scans = _scans(stream, start)
    if scans > _MOST_SCANS:
        raise ValueError(
            f"a JPEG of more than {_MOST_SCANS} scans, as if made to keep a computer busy"
        )
    if scans * pixels > _MOST_SCANS * MOST_PIXELS:
        raise ValueError(f"a JPEG of {scans} scans over {pixels} pixels, which takes too long")


def _scans(stream: BinaryIO, position: int) -> int:
    """Scans of the image whose first scan's data starts at a position, up to one too many."""
    scans, segments = 1, 0
    while scans <= _MOST_SCANS:
        stream.seek(position)
        piece = stream.read(_SMALL_PIECE_BYTES)
        found = _IN_SCAN.search(piece)
        if found is None:
            if len(piece) < 2:
                break
            position += len(piece) - 1  # the last byte may start a marker
            continue
        segments += 1
        if segments > _MOST_SEGMENTS:
            raise ValueError(f"a JPEG with more than {_MOST_SEGMENTS} segments in its scans")
        code = piece[found.start() + 1]
        if code == _END_OF_IMAGE:
            break
        scans += code == _START_OF_SCAN
        position += found.end()
        stream.seek(position)
        position += int.from_bytes(stream.read(2), "big")
    return scans


def readable_png(stream: BinaryIO) -> tuple[BinaryIO, bool, int | None]:
    """A PNG file without the texts and the colour profile that Pillow would refuse it for.

    Args:
        stream: at any position; left at another.

    Returns:
        The stream itself if there are none, which is nearly always so; whether the file may hold an
        orientation, which Pillow knows only once it has decoded the image; and the number of
        significant bits of its first band, if it declares them.

    Raises:
        ValueError: more chunks than any program writes; or too long to be copied without some.
    """
    start = position = 8
    stream.seek(position)
    kept: list[tuple[int, int]] = []
    memory = chunks = image_chunks = 0
    is_oriented = False
    bits: int | None = None
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        end = position + 12 + length
        if kind in _IMAGE_CHUNKS:
            image_chunks += 1
        else:
            chunks += 1
        if chunks > _MOST_CHUNKS or image_chunks > _MOST_IMAGE_CHUNKS:
            raise ValueError("a PNG of more chunks than any program writes")
        is_oriented |= kind == b"eXIf"
        if kind == b"sBIT" and length:
            bits = (stream.read(1) or b"\0")[0] or None
        if kind in (b"iCCP", b"iTXt", b"zTXt", b"tEXt"):
            size = length
            if memory + length <= PngImagePlugin.MAX_TEXT_MEMORY:
                text = stream.read(length)
                size = _size_of_text(kind, text)
                is_oriented |= text.startswith((b"XML:com.adobe.xmp", b"Raw profile type"))
            memory += size
            is_compressed_and_long = kind != b"tEXt" and size > PngImagePlugin.MAX_TEXT_CHUNK
            if is_compressed_and_long or memory > PngImagePlugin.MAX_TEXT_MEMORY:
                kept.append((start, position))
                start = end
        position = end
        if kind == b"IEND":
            break
        stream.seek(position)
    if not kept:
        return stream, is_oriented, bits
    kept.append((start, min(position, stream.seek(0, io.SEEK_END))))
    if sum(last - first for first, last in kept) > MOST_BYTES_AT_ONCE:
        raise ValueError(
            f"a PNG of more than {MOST_BYTES_AT_ONCE} bytes with a text or colour profile that is "
            "too long"
        )
    pieces = [PngImagePlugin._MAGIC]
    for first, last in kept:
        stream.seek(first)
        pieces.append(stream.read(max(last - first, 0)))
    return io.BytesIO(b"".join(pieces)), is_oriented, bits


def _size_of_text(kind: bytes, chunk: bytes) -> int:
    """Bytes of a text or profile once decompressed, up to one more than Pillow takes."""
    most = PngImagePlugin.MAX_TEXT_CHUNK
    _, _, content = chunk.partition(b"\0")
    if kind == b"iTXt" and content[:1] == b"\1":
        content = content[2:].split(b"\0", 2)[-1]
    elif kind in (b"iCCP", b"zTXt"):
        content = content[1:]
    else:
        return len(chunk) if kind == b"tEXt" else min(len(chunk), most)
    inflating = zlib.decompressobj()
    try:
        size = len(inflating.decompress(content, most))
    except zlib.error:  # Pillow leaves it out
        return 0
    return size + bool(inflating.unconsumed_tail)


def check_pnm(stream: BinaryIO) -> None:
    """Check the header of a PBM, PGM or PPM file, and the comments of one that is text.

    Args:
        stream: at any position; left at another.

    Raises:
        ValueError: a longer header or more comments than any program writes.
    """
    stream.seek(0)
    head = stream.read(_PNM_HEADER_BYTES)
    words = 3 if head[1:2] in b"14" else 4
    is_in_word, is_in_comment = True, False
    for byte in head:
        if is_in_comment:
            is_in_comment = byte not in b"\r\n"
        elif byte == ord("#"):
            is_in_comment = True
        elif byte in b" \t\n\r\v\f":
            words -= is_in_word
            is_in_word = False
            if not words:
                break
        else:
            is_in_word = True
    else:
        if len(head) == _PNM_HEADER_BYTES:
            raise ValueError(f"a PNM file with a header of more than {_PNM_HEADER_BYTES} bytes")
    if head[1:2] in b"123":
        comments = head.count(b"#")
        while part := stream.read(1 << 20):
            comments += part.count(b"#")
        if comments > _MOST_COMMENTS:
            raise ValueError(f"a PNM file of text with more than {_MOST_COMMENTS} comments")
