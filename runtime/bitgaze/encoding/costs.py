"""The memory that decoding an image takes, from what is known before it is decoded.

Measured as peaks of resident memory with Pillow 13, rounded up.
"""

from typing import Any

from PIL import Image

# Bytes of a pixel in memory; four in every other mode.
_PIXEL_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16L": 2, "I;16B": 2, "I;16N": 2}
# What `_eight_bit` allocates a pixel.
_DEEP_MODES, _DEEP_BYTES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"), 12
# Copies it takes to composite a strip of rows, and at least how large one is.
_STRIP_COPIES, _STRIP_PIXELS = 6, 1 << 20
_ROW_POINTER_BYTES = 8
_MARGIN = 1.05
_FRAMES_BYTES = 12
# Decoders keep two rows, of at most 8 bytes a pixel: nearly all there is to an image of one row.
_ROWS_BYTES = 16
_JPEG2000_SAMPLE_BYTES, _JPEG2000_BLOCK_BYTES = 6.5, 1_000
_HEIF_PIXEL_BYTES, _JXL_PIXEL_BYTES = 16, 20
_HEAD_BYTES = 1 << 16
_ROWS_PER_STRIP, _TILE_WIDTH, _TILE_LENGTH, _BITS_PER_SAMPLE = 278, 322, 323, 258


def decoding_cost(
    image: Image.Image,
    file_bytes: int,
    *,
    coefficients: int = 0,
    is_turned: bool = False,
    is_animated: bool = False,
    copies: int = 0,
) -> int:
    """Memory for decoding an image and making it upright and RGB, in bytes.

    Args:
        image: open, not decoded; of a JPEG its drafted size counts.
        file_bytes: size of its file; 0 if that is in memory already.
        coefficients: pixels as stored, of a JPEG whose decoder keeps all coefficients; else 0.
        is_turned: whether it is turned as its EXIF orientation says.
        is_animated: whether frames after the first one may be decoded.
        copies: of the RGB image that are made besides.
    """
    pixels = image.width * image.height
    stored, rgb = _image_bytes(image, image.mode), _image_bytes(image, "RGB")
    decoding, kept = _decoder_bytes(image, file_bytes)
    decoding += _ROWS_BYTES * image.width + _coefficient_bytes(image, coefficients)
    if is_animated:  # the frame before, and what it covered
        kept += _FRAMES_BYTES * pixels
        decoding += _FRAMES_BYTES * pixels
    result = converting = stored + rgb
    if image.mode in _DEEP_MODES:
        converting = stored + max(_DEEP_BYTES * pixels, rgb + pixels)
    elif image.has_transparency_data:
        rows = min(image.height, max(1, _STRIP_PIXELS // image.width))
        converting += _STRIP_COPIES * rows * (4 * image.width + _ROW_POINTER_BYTES)
    elif image.mode == "RGB":
        result = converting = stored
    turned = result + rgb * (is_turned + copies)
    return int(_MARGIN * max(stored + decoding, kept + max(converting, turned)))


def _image_bytes(image: Image.Image, mode: str) -> int:
    row = -(-image.width * _PIXEL_BYTES.get(mode, 4) // 4) * 4
    return image.height * (row + _ROW_POINTER_BYTES)


def _decoder_bytes(image: Image.Image, file_bytes: int) -> tuple[float, float]:
    """What a decoder takes to fill an image, and what it keeps until the image is closed."""
    pixels = image.width * image.height
    samples = len(image.getbands())
    decoding: float = 0
    kept: float = 0
    if image.format == "WEBP":  # two canvases, and the frame
        decoding = kept = 12.5 * pixels + 2 * file_bytes
    elif image.format == "AVIF":
        kept = (2 * _avif_pixel_bytes(image) + samples) * pixels + 2 * file_bytes
        decoding = kept + samples * pixels
    elif image.format == "HEIF":
        decoding = kept = _HEIF_PIXEL_BYTES * pixels + 2 * file_bytes
    elif image.format == "JXL":
        decoding = kept = _JXL_PIXEL_BYTES * pixels + 2 * file_bytes
    elif image.format == "JPEG2000":
        blocks = samples * pixels // _jpeg2000_block_pixels(image)
        decoding = samples * _JPEG2000_SAMPLE_BYTES * pixels + _JPEG2000_BLOCK_BYTES * blocks
        decoding += file_bytes
    elif image.format == "TIFF":
        decoding = _tiff_strip_bytes(image, samples) + file_bytes
    elif is_decoded_in_python(image):
        decoding = 3 * samples * pixels
    elif image.format == "GIF":
        decoding = 2 * pixels
    return decoding, kept


def is_decoded_in_python(image: Any) -> bool:
    """Whether Pillow has no decoder in C for an image, which takes a microsecond a pixel."""
    return any(tile[0] in Image.DECODERS for tile in getattr(image, "tile", ()))


def _coefficient_bytes(image: Any, pixels: int) -> int:
    """Two bytes for each sample of each component, as they are subsampled."""
    if not pixels:
        return 0
    samples = [(across, down) for _, across, down, _ in image.layer]
    widest: int = max(across for across, _ in samples) * max(down for _, down in samples)
    all_of_them: int = sum(across * down for across, down in samples)
    return 2 * pixels * all_of_them // max(widest, 1)


def _head(image: Any) -> bytes:
    image.fp.seek(0)
    head: bytes = image.fp.read(_HEAD_BYTES)
    return head


def _avif_pixel_bytes(image: Any) -> float:
    """Of the planes of an AVIF image, alpha included, as its av1C box declares them."""
    box: bytes = _head(image).partition(b"av1C")[2]
    bits = int(box[2]) if len(box) > 2 else 0x40
    samples = 1.0 + (image.mode == "RGBA")
    if not bits & 0x10:  # has colours
        samples += 2.0 / (2 if bits & 0x08 else 1) / (2 if bits & 0x04 else 1)
    return float(samples * (2 if bits & 0x40 else 1))


def _jpeg2000_block_pixels(image: Any) -> int:
    """Samples in a code block, as the first COD segment declares them."""
    segment = _head(image).partition(b"\xff\x52")[2]
    if len(segment) < 12:
        return 1
    sides = [(segment[8] & 15) + 2, (segment[9] & 15) + 2]
    if segment[2] & 1:  # precincts, which blocks do not cross
        for precinct in segment[12 : 13 + segment[7]]:
            sides = [min(sides[0], precinct & 15), min(sides[1], precinct >> 4)]
    return max(1, 1 << sum(sides) >> 2 if segment[2] & 1 else 1 << sum(sides))


def _tiff_strip_bytes(image: Any, samples: int) -> int:
    """A decoded strip or tile; none where Pillow itself reads the rows."""
    if not any(tile[0] == "libtiff" for tile in image.tile):
        return 0
    tags = image.tag_v2
    if _TILE_WIDTH in tags:
        pixels = int(tags[_TILE_WIDTH]) * int(tags.get(_TILE_LENGTH, image.height))
    else:
        pixels = image.width * min(image.height, int(tags.get(_ROWS_PER_STRIP, image.height)))
    bits = tags.get(_BITS_PER_SAMPLE, (8,))
    deepest = max(bits) if isinstance(bits, tuple) else bits
    # libtiff converts some colour spaces to RGBA itself.
    return pixels * max(4, samples * -(-int(deepest) // 8))
