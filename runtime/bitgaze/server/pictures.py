"""Pictures as the page shows them: small, upright, JPEG, with or without attention.

Knows files and pixels. Does not know HTTP or galleries.
"""

import base64
import io
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.errors import ImageError
from bitgaze.explain import overlay
from bitgaze.images import Source, upright

SIDE_PX = 320  # of a picture in the page

_QUALITY = 82


def small_jpeg(source: Source, side: int, attention: NDArray[np.float32] | None = None) -> bytes:
    """A picture that fits into a square, as a JPEG file.

    Args:
        source: as `bitgaze.images.load` takes it.
        side: of the square, in pixels.
        attention: (h, w), in [0, 1], to lay over the picture.

    Raises:
        ImageError: the picture cannot be read.
    """
    image = upright(source, side)
    image.thumbnail((side, side))
    if attention is not None:
        image = overlay(image, attention)
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=_QUALITY)
    return buffer.getvalue()


def data_uri(jpeg: bytes) -> str:
    """A JPEG file as the address of itself."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def file_version(path: str) -> str:
    """Changes when the file does; 32 hex digits or fewer.

    Raises:
        ImageError: there is no such regular file.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise ImageError(f"{os.path.basename(path)}: the file is gone") from error  # noqa: PTH119
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
        raise ImageError(f"{os.path.basename(path)}: not a regular file")  # noqa: PTH119
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
