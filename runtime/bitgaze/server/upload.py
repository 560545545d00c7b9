"""Reads an uploaded image from a request, within limits of bytes, pixels and time.

Bytes go to a temporary file as they arrive: many slow uploads at once take disk, not memory.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from tempfile import SpooledTemporaryFile
from typing import Any

import anyio
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from bitgaze.encoding.images import dimensions
from bitgaze.errors import ImageError
from bitgaze.server.answers import Refusal

# A file, and a bare stream of codes.
_JPEG2000 = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
_MAX_JPEG2000_PIXELS, _MAX_JPEG2000_BYTES = 1_000_000, 300_000
_MAX_IN_MEMORY = 1 << 20  # bytes; the rest of an upload goes to disk


@asynccontextmanager
async def uploaded_file(
    request: Request, max_bytes: int, max_seconds: float
) -> AsyncIterator[UploadFile]:
    """The one file of a request: its body, or the part `file` of a form.

    Args:
        request: a request whose body has not been read.
        max_bytes: maximum size of the whole body.
        max_seconds: maximum time from now to the last byte.

    Raises:
        Refusal: the upload is too large, too slow, incomplete, not of an image's type, or not one
            file.
    """
    body = _LimitedBody(request, max_bytes)
    limited = Request(request.scope, body.receive)
    try:
        with anyio.fail_after(max_seconds):
            upload = await _read_file(limited)
    except Refusal:
        with anyio.move_on_after(max_seconds):
            await body.discard()  # otherwise the client sees a reset instead of the answer
        raise
    except TimeoutError:
        raise Refusal(
            408,
            "too_slow",
            f"The upload took more than {max_seconds:g} s. Try a smaller copy, or a better "
            "connection.",
            {"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "broken_off", "The upload broke off; send it again.") from None
    try:
        yield upload
    finally:
        await upload.close()


def check_image(content: bytes, max_pixels: int) -> None:
    """Check, without decoding it, that an image takes no decoder too much time or memory.

    Raises:
        Refusal: the image has more pixels than allowed.
        ImageError: it is not an image, or its headers ask too much of a decoder.
    """
    check_decoder(content)
    width, height = dimensions(content)
    if width * height > max_pixels:
        raise Refusal(
            413,
            "too_many_pixels",
            f"The image has {width} x {height} pixels, {width * height / 1e6:.0f} million; the "
            f"limit is {max_pixels / 1e6:.0f} million. Save a smaller copy and search with that.",
        )


def check_decoder(content: bytes) -> None:
    """Check that no other request has to wait until an image is decoded.

    While Pillow decodes JPEG 2000, no other thread runs Python. That takes 40 ns a pixel and 0.2 us
    a byte: 5 s for a photograph of 12 megapixels, 0.1 s at these limits. Other decoders let them.

    Raises:
        ImageError: a large JPEG 2000, or not an image.
    """
    if not content.startswith(_JPEG2000):
        return
    width, height = dimensions(content)
    if width * height > _MAX_JPEG2000_PIXELS or len(content) > _MAX_JPEG2000_BYTES:
        raise ImageError(
            f"a JPEG 2000 of {width} x {height} pixels in {len(content)} bytes; the server decodes "
            f"at most {_MAX_JPEG2000_PIXELS} pixels and {_MAX_JPEG2000_BYTES} bytes of this "
            "format: save it as PNG or JPEG"
        )


class _LimitedBody:
    """The body of a request, refused when it grows too large."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request, self._max_bytes = request, max_bytes
        self._bytes = 0
        self._has_ended = False

    async def receive(self) -> Message:
        announced = self._request.headers.get("content-length", "0")
        if int(announced) > self._max_bytes:  # digits only: the HTTP parser has checked it
            raise self._refusal()
        message = await self._next()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._max_bytes:
            raise self._refusal()
        return message

    async def discard(self) -> None:
        while not self._has_ended:
            await self._next()

    async def _next(self) -> Message:
        message = await self._request.receive()
        self._has_ended = not message.get("more_body", False)
        return message

    def _refusal(self) -> Refusal:
        return Refusal(
            413,
            "too_large",
            f"The upload is larger than the limit of {self._max_bytes / 1e6:.0f} MB. Save a "
            "smaller copy of the image and search with that.",
        )


async def _read_file(request: Request) -> UploadFile:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "multipart/form-data":
        try:
            form = await request.form(max_files=1, max_fields=0)
        except FormParserError as error:  # newer versions of Starlette raise HTTPException instead
            raise Refusal(400, "bad_request", f"The form is broken: {error}") from error
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            await form.close()
            raise Refusal(400, "no_file", "The form has no file; expected one, named `file`.")
        return upload
    is_binary = content_type in ("", "application/octet-stream")
    if not is_binary and not content_type.startswith("image/"):
        raise Refusal(
            415,
            "wrong_type",
            f"The content type is {content_type!r}, expected that of an image, such as image/jpeg, "
            "application/octet-stream, or a form (multipart/form-data) with the image as `file`.",
        )
    spooled: Any = SpooledTemporaryFile(max_size=_MAX_IN_MEMORY)  # noqa: SIM115 (the caller closes)
    upload = UploadFile(spooled, size=0)
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                await upload.write(chunk)
        await upload.seek(0)
    except BaseException:
        await upload.close()
        raise
    return upload
