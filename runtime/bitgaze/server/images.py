"""The images of items: thumbnails, and attention over them. By key, never by path.

Shows a file only while it is the image that the item was made from: another one that was put in its
place, or a link to it, may be private.
"""

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from bitgaze.encoding.heatmap import THUMBNAIL_PX, jpeg, overlay, thumbnail
from bitgaze.encoding.images import printable
from bitgaze.errors import ImageError
from bitgaze.gallery.items import FileState, Item
from bitgaze.server.answers import Refusal
from bitgaze.server.parameters import integer, parameters_of, required
from bitgaze.server.state import check_model, item_of, state_of
from bitgaze.server.upload import check_decoder

_MAX_SIDE_PX = 2048
# Read as a whole, besides the budget of decoded bytes.
_MAX_FILE_BYTES = 64_000_000


async def thumbnail_image(request: Request) -> Response:
    """The thumbnail of an item's image."""
    return await _image(request, lambda content, side: jpeg(thumbnail(content, side)))


async def attention_image(request: Request) -> Response:
    """The thumbnail with the model's attention over it."""
    gallery = state_of(request).gallery
    check_model(gallery)

    def draw(content: bytes, side: int) -> bytes:
        encoded = gallery.encoder.encode([content])
        if encoded.errors:
            raise encoded.errors[0]
        return jpeg(overlay(thumbnail(content, side), encoded.attention[0]))

    return await _image(request, draw)


async def _image(request: Request, draw: Callable[[bytes, int], bytes]) -> Response:
    """An answer with an image of an item.

    Args:
        request: the request; it names the item by key.
        draw: draws the image of a file's content, within a square of a side in pixels, as a JPEG.
    """
    parameters = parameters_of(request, "key", "size")
    state = state_of(request)
    side = integer(parameters, "size", 1, _MAX_SIDE_PX) or THUMBNAIL_PX
    key = required(parameters, "key")

    item = await state.run_reading(lambda: item_of(state.gallery, key))
    file = file_of(item)
    try:
        version = await state.run_reading(lambda: _file_version(file))
        headers = {"ETag": f'"{version}-{side}"', "Cache-Control": "private, max-age=60"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        drawing = (request.url.path, file.path, file.content, version, side)
        content = await state.drawings.get(drawing, lambda: draw(_content(file), side))
    except ImageError as error:
        raise _no_image(file, error) from error
    return Response(content, media_type="image/jpeg", headers=headers)


def content_of(item: Item) -> bytes:
    """The content of an item's file, while it is the image that was indexed.

    Raises:
        Refusal: there is none, or it is another one.
    """
    file = file_of(item)
    try:
        return _content(file)
    except ImageError as error:
        raise _no_image(file, error) from error


def file_of(item: Item) -> FileState:
    """The file that an item was made from.

    Raises:
        Refusal: there is none.
    """
    if item.file is None:
        raise Refusal(
            404,
            "no_image",
            "This item was added by hand: the gallery has its code, not its image.",
        )
    return item.file


def _no_image(file: FileState, error: ImageError) -> Refusal:
    name = printable(os.path.basename(file.path))  # noqa: PTH119
    return Refusal(
        404,
        "no_image",
        f"The item's image {name} is gone, has changed or cannot be read ({error}). Run "
        "`bitgaze index` on its folder again.",
    )


def _file_version(file: FileState) -> str:
    """A text that changes when the file does.

    Raises:
        ImageError: it is gone, no regular file, or of another size than the item's image.
    """
    try:
        status = Path(os.fsdecode(file.path)).stat()
    except (OSError, ValueError) as error:
        raise ImageError("the file is gone") from error
    _check(file, status)
    return f"{status.st_mtime_ns:x}-{status.st_ctime_ns:x}-{status.st_size:x}"


def _content(file: FileState) -> bytes:
    """The content of an item's file, read once: what is compared is what is drawn.

    Raises:
        ImageError: it is not that of the item's image, or cannot be shown.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(file.path, flags), "rb") as stream:  # noqa: PTH123
            _check(file, os.fstat(stream.fileno()))
            content = stream.read(file.size + 1)
    except (OSError, ValueError) as error:
        raise ImageError("the file is gone or cannot be opened") from error
    if hashlib.blake2b(content, digest_size=16).digest() != file.content:
        raise ImageError("no longer the image that was indexed")
    check_decoder(content)
    return content


def _check(file: FileState, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise ImageError("not a regular file")
    if status.st_size != file.size:
        raise ImageError("no longer the image that was indexed")
    if status.st_size > _MAX_FILE_BYTES:
        raise ImageError(
            f"{status.st_size / 1e6:.0f} MB; the server shows files of up to "
            f"{_MAX_FILE_BYTES / 1e6:.0f} MB",
        )
