"""Whether images that are parts of each other by their codes are so by their pixels."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.images import ImageFile, Source
from bitgaze.encoding.registration import is_part, reduced
from bitgaze.errors import ImageError
from bitgaze.gallery.items import FileState, reason_unusable

# Images that are kept, of at most 183 KB each.
_KEPT = 64


class Overlap:
    """Reads images and compares them; those that were compared last are kept.

    Args:
        turned: whether one may be mirrored or turned by quarters.
    """

    def __init__(self, *, turned: bool) -> None:
        self._turned = turned
        self._of_file = lru_cache(maxsize=_KEPT)(_image_of)

    def of_file(self, file: FileState | None) -> Image.Image | None:
        """The image of an item's file; None without one, or if it holds another image by now."""
        return None if file is None else self._of_file(file)

    def is_part(
        self,
        one: Image.Image | None,
        other: Image.Image | None,
        codes: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    ) -> bool | None:
        """Whether one of two images shows a part of the other; None if one could not be read."""
        if one is None or other is None:
            return None
        return is_part(one, other, codes, turned=self._turned)


def image_of_source(source: Source) -> Image.Image | None:
    """The image of a source; None if it cannot be read any more."""
    try:
        return reduced(source)
    except ImageError:
        return None


def _image_of(file: FileState) -> Image.Image | None:
    read = ImageFile(file.path, is_tolerant=True)
    image = image_of_source(read)
    return image if reason_unusable(file, read, None) is None else None
