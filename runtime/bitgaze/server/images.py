"""The images of items, as the API gives them: by key, never by a path.

Knows what is answered, and when a browser need not ask again. Does not know how they are drawn.
"""

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
from bitgaze.server.parameters import arguments, integer, needed
from bitgaze.server.state import check_model, item_of, serving_of

_LARGEST_SIDE_PX = 1024


async def small_image(request: Request) -> Response:
    """The image of an item, small."""
    serving = serving_of(request)
    return await _image(request, serving.reading, lambda path, side: jpeg(thumbnail(path, side)))


async def attention_image(request: Request) -> Response:
    """The same, with the model's attention over it."""
    serving = serving_of(request)
    check_model(serving.gallery)

    def draw(path: str, side: int) -> bytes:
        encoded = serving.gallery.encoder.encode([path])
        if encoded.errors:
            raise encoded.errors[0]
        return jpeg(overlay(thumbnail(path, side), encoded.attention[0]))

    return await _image(request, serving.encoding, draw)


async def _image(
    request: Request,
    run: Callable[[Callable[[], Response]], Any],
    draw: Callable[[str, int], bytes],
) -> Response:
    """An image of an item, by its key; never by a path, whatever a request says."""
    given = arguments(request, "key", "size")
    gallery = serving_of(request).gallery
    side = integer(given, "size", 1, _LARGEST_SIDE_PX) or THUMBNAIL_PX
    key = needed(given, "key")

    def look() -> Response:
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

    answer: Response = await run(look)
    return answer


def _file_version(path: str) -> str:
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
