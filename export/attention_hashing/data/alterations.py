"""Ten alterations that leave an image the same image to a person.

The one definition of a near-duplicate: codes are calibrated and evaluated with it.
"""

import io
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps


def altered(image: Image.Image) -> dict[str, Image.Image]:
    """Make ten altered versions of an image.

    Args:
        image: RGB, at least 8 pixels on each side; left unchanged.

    Returns:
        Name to RGB image: "resized" to half its width and height; "jpeg" at quality 30; "cropped"
        to the central 80 % of both sides; "mirrored"; "rotated" by 5 degrees, with black corners;
        "grey"; "brighter" by 40 %; "blurred" by 1 % of the longer side; "captioned" with white text
        on a black band over the lowest 12 %; "bordered" in white by 8 % of the longer side.
    """
    return {name: alter(image) for name, alter in _ALTERATIONS.items()}


def _resized(image: Image.Image) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def _jpeg(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "jpeg", quality=30)
    with Image.open(stream) as compressed:
        return compressed.convert("RGB")


def _cropped(image: Image.Image) -> Image.Image:
    left, top = image.width // 10, image.height // 10
    return image.crop((left, top, image.width - left, image.height - top))


def _rotated(image: Image.Image) -> Image.Image:
    return image.rotate(5, Image.Resampling.BICUBIC)


def _blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(max(image.size) / 100))


def _captioned(image: Image.Image) -> Image.Image:
    captioned = image.copy()
    draw = ImageDraw.Draw(captioned)
    top = image.height - image.height * 12 // 100
    draw.rectangle((0, top, image.width, image.height), "black")
    draw.text((image.width // 20, top), "seen on a walk", "white")
    return captioned


def _bordered(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, max(image.size) * 8 // 100, "white")


_ALTERATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized": _resized,
    "jpeg": _jpeg,
    "cropped": _cropped,
    "mirrored": ImageOps.mirror,
    "rotated": _rotated,
    "grey": lambda image: image.convert("L").convert("RGB"),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "blurred": _blurred,
    "captioned": _captioned,
    "bordered": _bordered,
}
