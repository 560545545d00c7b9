"""The images of items: thumbnails, and attention over them. By key, never by path."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from bitgaze.encoding.heatmap import THUMBNAIL_PX, jpeg, overlay, thumbnail
from bitgaze.errors import ImageError
from bitgaze.server.answers import Refusal
from bitgaze.server.parameters import integer, parameters_of, required
from bitgaze.server.state import check_model, item_of, state_of

_MAX_SIDE_PX = 1024


async def thumbnail_image(request: Request) -> Response:
    """The thumbnail of an item's image."""
    state = state_of(request)
    return await _image(request, state.run_reading, lambda path, side: jpeg(thumbnail(path, side)))


async def attention_image(request: Request) -> Response:
    """The thumbnail with the model's attention over it."""
    state = state_of(request)
    check_model(state.gallery)

    def draw(path: str, side: int) -> bytes:
        encoded = state.gallery.encoder.encode([path])
        if encoded.errors:
            raise encoded.errors[0]
        return jpeg(overlay(thumbnail(path, side), encoded.attention[0]))

    return await _image(request, state.run_encoding, draw)


async def _image(
    request: Request,
    run: Callable[[Callable[[], Response]], Any],
    draw: Callable[[str, int], bytes],
) -> Response:
    """An answer with an image of an item.

    Args:
        request: the request; it names the item by key.
        run: runs the work in a thread.
        draw: draws a file's image, within a square of a side in pixels, as a JPEG.
    """
    parameters = parameters_of(request, "key", "size")
    gallery = state_of(request).gallery
    side = integer(parameters, "size", 1, _MAX_SIDE_PX) or THUMBNAIL_PX
    key = required(parameters, "key")

    def work() -> Response:
        path = item_of(gallery, key).path
        if path is None:
            raise Refusal(
                404,
                "no_image",
                "This item was added by hand: the gallery has its code, not its image.",
            )
        try:
            version = _file_version(path)
            headers = {"ETag": f'"{version}-{side}"', "Cache-Control": "private, max-age=60"}
            if request.headers.get("if-none-match") == headers["ETag"]:
                return Response(status_code=304, headers=headers)
            return Response(draw(path, side), media_type="image/jpeg", headers=headers)
        except ImageError as error:
            raise Refusal(
                404,
                "no_image",
                f"The item's image is gone or cannot be read ({error}). Run `bitgaze index` on "
                "its folder again.",
            ) from error

    answer: Response = await run(work)
    return answer


def _file_version(path: str) -> str:
    """A text that changes when the file does.

    Raises:
        ImageError: there is no such regular file.
    """
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        raise ImageError(f"{os.path.basename(path)}: the file is gone") from error  # noqa: PTH119
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would block
        raise ImageError(f"{os.path.basename(path)}: not a regular file")  # noqa: PTH119
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"
