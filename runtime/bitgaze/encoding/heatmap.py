"""Images for display: thumbnails, and attention as a heatmap over an image."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw

from bitgaze.encoding.images import Box, Source, fitted

THUMBNAIL_PX = 320  # longest side on a page

_QUALITY = 82
_LARGEST_PROFILE_BYTES = 4 << 20
# Dark violet to pale yellow with evenly rising lightness, which survives grey print and colour
# blindness. RGB at five evenly spaced points.
_RAMP = np.array(
    [(13, 8, 65), (107, 26, 110), (196, 60, 78), (246, 130, 31), (252, 236, 150)], np.float32
)
_HEAT_OPACITY = 0.6
# A bright line between two dark ones is seen on any image.
_FRAME, _FRAME_EDGE = "#fff3b0", "#1c1b22"


def thumbnail(source: Source, side: int = THUMBNAIL_PX) -> Image.Image:
    """Load an image, upright and in sRGB, shrunk to fit a square.

    Args:
        source: as for `bitgaze.encoding.images.load`.
        side: of the square, in pixels. A smaller image keeps its size.

    Raises:
        ImageError, TypeError, ValueError: as for `bitgaze.encoding.images.load`.
    """
    return in_srgb(fitted(source, side))


def in_srgb(image: Image.Image) -> Image.Image:
    """Convert an RGB image from its colour profile to sRGB, which screens expect.

    For display only: codes are computed from the samples as they are stored.

    Args:
        image: RGB; its profile is in `info`. Returned itself if there is none for RGB.
    """
    profile = image.info.pop("icc_profile", None)
    if not profile or len(profile) > _LARGEST_PROFILE_BYTES:
        return image
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if own.profile.xcolor_space.strip() != "RGB":
            return image
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, ImportError):
        return image  # a broken profile must not hide an image
    return converted or image


def jpeg(image: Image.Image) -> bytes:
    """Encode an RGB image as a JPEG file, at thumbnail quality."""
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=_QUALITY)
    return buffer.getvalue()


def data_uri(image: Image.Image) -> str:
    """Encode an RGB image as a JPEG data URI, at thumbnail quality."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg(image)).decode()


def framed(image: Image.Image, box: Box) -> Image.Image:
    """Draw a frame around a part of an image.

    Args:
        image: RGB, any size.
        box: left, top, right, bottom, in [0, 1] of the image.

    Returns:
        A new RGB image of the same size.
    """
    image = image.copy()
    draw = ImageDraw.Draw(image)
    edges = [share * (side - 1) for share, side in zip(box, 2 * image.size, strict=True)]
    for inset, colour in enumerate((_FRAME_EDGE, _FRAME, _FRAME, _FRAME_EDGE)):
        left, top = edges[0] + inset, edges[1] + inset
        right, bottom = edges[2] - inset, edges[3] - inset
        if left <= right and top <= bottom:
            draw.rectangle((left, top, right, bottom), outline=colour)
    return image


def overlay(image: Image.Image, attention: NDArray[np.float32]) -> Image.Image:
    """Blend attention into an image as a heatmap.

    Args:
        image: upright, RGB, any size.
        attention: float32, shape (h, w), in [0, 1]; covers the whole image.

    Returns:
        A new RGB image of the same size.

    Raises:
        ValueError: attention is not two-dimensional.
    """
    if attention.ndim != 2:
        raise ValueError(f"attention has shape {attention.shape}, expected (h, w)")
    coarse = Image.fromarray(attention.astype(np.float32))
    strength = np.asarray(coarse.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    opacity = _HEAT_OPACITY * strength[..., None]
    blended = (1 - opacity) * np.asarray(image, np.float32) + opacity * _heat(strength)
    return Image.fromarray(blended.round().astype(np.uint8))


def _heat(strength: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map values in [0, 1], shape (h, w), to RGB in 0..255: float32, shape (h, w, 3)."""
    points = np.linspace(0, 1, len(_RAMP))
    channels = [np.interp(strength, points, _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)
