"""Damaged images and decompression bombs: pixels or ImageError, but no crash, hang or huge memory.

    python tests/torture/damage_images.py --count 20000

Uses formats as Pillow writes them, and the fields where they store an image's size.
"""

import io
import struct
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from damage import ANY, damaged
from PIL import Image, features
from supervised import Case, main, run

from bitgaze.encoding.images import Preprocess, load
from bitgaze.errors import ImageError

_SMALL = Preprocess(size=32)
# Memory of the largest image that is accepted, which a damaged size can claim to be.
_PEAK_MB = 750
_EXIF_ORIENTATION = 0x0112


def images() -> dict[str, bytes]:
    """An image in each format and variant, by name."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    rgba = Image.fromarray(coarse).resize((120, 90))
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("P")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    frames = [rgb.rotate(90 * turn) for turn in range(1, 3)]
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = 6
    made = {
        "jpeg": _saved(rgb, "jpeg", exif=exif),
        "progressive jpeg": _saved(rgb, "jpeg", progressive=True, quality=95),
        "grey jpeg": _saved(grey, "jpeg", restart_marker_rows=2),
        "cmyk jpeg": _saved(rgb.convert("CMYK"), "jpeg"),
        "png": _saved(rgb, "png", exif=exif),
        "transparent png": _saved(rgba, "png"),
        "palette png": _saved(palette, "png", transparency=3),
        "deep png": _saved(deep, "png"),
        "apng": _saved(rgb, "png", save_all=True, append_images=frames),
        "gif": _saved(palette, "gif", transparency=3),
        "animated gif": _saved(rgb, "gif", save_all=True, append_images=frames),
        "tiff": _saved(rgb, "tiff"),
        "deep tiff": _saved(deep, "tiff"),
        "bmp": _saved(rgb, "bmp"),
        "palette bmp": _saved(palette, "bmp"),
    }
    if features.check("libtiff"):
        for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
            made[f"{compression} tiff"] = _saved(rgb, "tiff", compression=compression)
    if features.check("webp"):
        made["webp"] = _saved(rgb, "webp", exif=exif)
        made["lossless webp"] = _saved(rgba, "webp", lossless=True)
        made["animated webp"] = _saved(rgb, "webp", save_all=True, append_images=frames)
    return made


def bombs() -> dict[str, bytes]:
    """Small files that claim enormous sizes, by name; some at the limits of their format."""
    wide, high = 60_000, 60_000
    row = zlib.compress(bytes(1 + 3 * wide))
    header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", row), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    jpeg = bytearray(_saved(Image.new("RGB", (16, 16)), "jpeg"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    gif = bytearray(_saved(Image.new("P", (16, 16)), "gif"))
    gif[6:10] = struct.pack("<HH", wide, high)
    frame = gif.index(b"\x2c", 13)
    gif[frame + 5 : frame + 9] = struct.pack("<HH", wide, high)
    bmp = bytearray(_saved(Image.new("RGB", (16, 16)), "bmp"))
    bmp[18:26] = struct.pack("<ii", wide, high)
    tiff = bytearray(_saved(Image.new("RGB", (16, 16)), "tiff"))
    for tag, value in ((256, wide), (257, high)):
        entry = next(
            at for at in range(8, len(tiff) - 11) if tiff[at : at + 2] == struct.pack("<H", tag)
        )
        tiff[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, value)
    # Lossless WebP: 14 bits each for width - 1 and height - 1.
    made = {"png": png, "jpeg": bytes(jpeg), "gif": bytes(gif), "bmp": bytes(bmp)}
    made |= {"tiff": bytes(tiff), "ppm": b"P6 60000 60000 255\n" + bytes(99)}
    if features.check("webp"):
        webp = bytearray(_saved(Image.new("RGB", (16, 16)), "webp", lossless=True))
        at = webp.index(b"VP8L") + 9
        (bits,) = struct.unpack_from("<I", webp, at)
        webp[at : at + 4] = struct.pack("<I", bits | (1 << 28) - 1)
        made["webp"] = bytes(webp)
    return made


def make_case() -> Case:
    """A case for `supervised.run`; passes bytes, or sometimes a file."""
    known = list(images().values())
    for content in known:
        load(content, _SMALL)
    folder = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))

    def case(seed: int) -> str:
        random = np.random.default_rng(seed)
        content = damaged(known[seed % len(known)], ANY, random)
        source: bytes | Path = content
        if seed % 8 == 0:
            source = folder / "damaged"
            source.write_bytes(content)
        try:
            pixels = load(source, _SMALL)
        except ImageError:
            return "refused"
        assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
        return "read"

    return case


def make_bomb_case() -> Case:
    """A case in which a bomb is refused, also if the program has disabled Pillow's own limit."""
    known = list(bombs().items())

    def case(seed: int) -> str:
        name, content = known[seed // 2 % len(known)]
        if seed % 2:
            Image.MAX_IMAGE_PIXELS = None
        try:
            load(content, _SMALL)
        except ImageError as error:
            if "pixels" in str(error):
                return "bombs refused"
            raise
        raise AssertionError(f"{name}: read")

    return case


def damage_images(seeds: range, jobs: int) -> Counter[str]:
    """Damage an image for each seed, then try each bomb twice."""
    found = run(make_case, seeds, jobs=jobs, peak_mb=_PEAK_MB)
    return found + run(make_bomb_case, range(2 * len(bombs())), seconds=5, peak_mb=30)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


if __name__ == "__main__":
    sys.exit(main(__doc__.partition("\n")[0], "count", 20_000, damage_images))
