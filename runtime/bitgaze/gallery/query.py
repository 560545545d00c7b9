"""A query: the codes of an image or of an item, and what else is known of it."""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from bitgaze.arguments import MAX_VIEWS
from bitgaze.encoding.encoder import Encoded
from bitgaze.encoding.frames import inside_frame
from bitgaze.encoding.images import Box, ImageFile, Region, Source
from bitgaze.encoding.registration import reduced
from bitgaze.encoding.structure import STRUCTURE_BITS, structural_code
from bitgaze.errors import ImageError
from bitgaze.gallery.items import BOX_STEPS, Item

_WHOLE = (0.0, 0.0, 1.0, 1.0)
_STRUCTURE_BYTES, _BOX_BYTES = STRUCTURE_BITS // 8, 8


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for: an image that is encoded, to be searched for more than once.

    Made by `Gallery.query`.

    Attributes:
        views: uint8, (q, bits // 8): the code of the image, then those of its looks.
        boxes: where the views are, None for the whole image; q of them.
        values: float32, (q, bits): the hash values that gave the codes; None if not known.
        structure: structural code, uint8, (32,); None if not known.
        inside: structural code of what is inside a frame, such as a photograph on a screen; None
            if there is no frame, or it was not looked for.
        content: digest of the image's file, as in `FileState.content`; None if not known.
        adaptation: fingerprint of the gallery's adaptation that the codes are of; None without one.
        image: what the codes are of, to be read again; None if not known.
    """

    views: NDArray[np.uint8]
    boxes: tuple[Box | None, ...]
    values: NDArray[np.float32] | None = None
    structure: NDArray[np.uint8] | None = None
    content: bytes | None = None
    adaptation: str | None = None
    image: Source | None = None
    inside: NDArray[np.uint8] | None = None

    @property
    def looks(self) -> tuple[Box, ...]:
        """Where the looks are, without those that the image lacks."""
        return tuple(box for box in self.boxes[1:] if box is not None)

    @classmethod
    def of_image(
        cls,
        source: Source,
        encoded: Encoded,
        adaptation: str | None = None,
        inside: NDArray[np.uint8] | None = None,
    ) -> "Query":
        """The query for an image, encoded alone.

        Args:
            source: the image.
            encoded: the gallery's codes of it.
            adaptation: fingerprint of the gallery's adaptation.
            inside: as `code_inside` returns it.
        """
        boxes = [found if found != _WHOLE else None for found in map(_box, encoded.boxes[0])]
        if isinstance(source, Region):
            boxes, structure, content, image = [source.box, *boxes], None, None, None
        else:
            boxes, structure, image = [None, *boxes], encoded.structure[0], source
            content = _content(source)
        values = encoded.view_hashes[0]
        views = encoded.views[0]
        return cls(views, tuple(boxes), values, structure, content, adaptation, image, inside)

    @classmethod
    def of_item(cls, item: Item, places: int, adaptation: str | None = None) -> "Query":
        """The query for an item of the gallery.

        Args:
            item: the item.
            places: number of looks of an item; the code of the item stands in for those it lacks.
            adaptation: fingerprint of the gallery's adaptation.
        """
        missing = places - len(item.looks)
        views = [item.code[None], *([item.looks] if len(item.looks) else [])]
        views.append(np.broadcast_to(item.code, (missing, len(item.code))))
        boxes = (None, *map(_box, item.boxes), *[None] * missing)
        content = None if item.file is None else item.file.content
        image = None if item.file is None else ImageFile(item.file.path, is_tolerant=True)
        return cls(np.concatenate(views), boxes, None, item.structure, content, adaptation, image)

    def to_bytes(self) -> bytes:
        """Codes, boxes and structural code, for `from_bytes`: 32 bytes, and bits / 8 + 8 a view."""
        boxes = [_WHOLE if box is None else box for box in self.boxes]
        steps = np.rint(np.array(boxes, np.float64) * BOX_STEPS).astype("<u2")
        structure = bytes(_STRUCTURE_BYTES) if self.structure is None else self.structure.tobytes()
        return structure + self.views.tobytes() + steps.tobytes()

    @classmethod
    def from_bytes(cls, content: bytes, bits: int) -> "Query":
        """Read what `to_bytes` wrote: not hash values, digest, adaptation, image and inside.

        Args:
            content: the bytes.
            bits: length of a code.

        Raises:
            ValueError: the bytes are not a query with codes of this length.
        """
        width = bits // 8
        count, rest = divmod(len(content) - _STRUCTURE_BYTES, width + _BOX_BYTES)
        if rest or not 1 <= count <= MAX_VIEWS:
            raise ValueError(f"{len(content)} bytes are no query with codes of {bits} bits")
        codes_end = _STRUCTURE_BYTES + count * width
        structure = np.frombuffer(content[:_STRUCTURE_BYTES], np.uint8)
        views = np.frombuffer(content[_STRUCTURE_BYTES:codes_end], np.uint8).reshape(count, width)
        steps = np.frombuffer(content[codes_end:], "<u2").reshape(count, 4)
        shares = (steps / BOX_STEPS).astype(np.float32)  # as items have them
        boxes = tuple(
            # In forged bytes, a box may have no area.
            box if box != _WHOLE and box[0] < box[2] and box[1] < box[3] else None
            for box in map(_box, shares)
        )
        return cls(views, boxes, None, structure)


def code_inside(source: Source) -> NDArray[np.uint8] | None:
    """Structural code of what an image shows inside a frame, uint8, (32,); None without one.

    The image is read again, small: 2 ms for a photograph of 500 pixels.
    """
    if isinstance(source, Region):
        return None
    try:
        image = reduced(source)
    except ImageError:
        return None
    box = inside_frame(image)
    if box is None:
        return None
    edges = np.rint(np.array(box) * (image.size * 2)).astype(int).tolist()
    code = structural_code(image.crop(edges).convert("RGB"))
    return code if code.any() else None


def _box(values: NDArray[np.floating]) -> Box:
    left, top, right, bottom = map(float, values)
    return left, top, right, bottom


def _content(source: Source) -> bytes | None:
    """Digest of the file that an image was decoded from."""
    if isinstance(source, ImageFile):
        return source.content or None
    if isinstance(source, bytes):
        return blake2b(source, digest_size=16).digest()
    return None
