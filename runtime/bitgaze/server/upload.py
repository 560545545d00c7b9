"""An image out of a request, within limits of bytes, pixels and time.

What comes in is kept in a temporary file while it arrives: many slow uploads at once take disk, not
memory. Knows HTTP bodies; does not know what becomes of the image.
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
from bitgaze.server.answers import Refusal

_IN_MEMORY = 1 << 20


@asynccontextmanager
async def received(
    request: Request, max_bytes: int, max_seconds: float
) -> AsyncIterator[UploadFile]:
    """The one file of a request: its body, or the part `file` of a form.

    Args:
        request: with a body that was not read yet.
        max_bytes: of the whole body.
        max_seconds: from now to its last byte.

    Raises:
        Refusal: too large, too slow, broken off, not of an image's type, or not one file.
    """
    incoming = _Incoming(request, max_bytes)
    counted = Request(request.scope, incoming.receive)
    try:
        with anyio.fail_after(max_seconds):
            upload = await _file_of(counted)
    except Refusal:
        with anyio.move_on_after(max_seconds):
            await incoming.discard()  # else the client meets a reset instead of the answer
        raise
    except TimeoutError:
        raise Refusal(
            408,
            "too_slow",
            f"The image did not arrive within {max_seconds:g} s. Try a smaller copy, or a better "
            "connection.",
            {"Connection": "close"},
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "broken_off", "The upload was broken off; send it again.") from None
    try:
        yield upload
    finally:
        await upload.close()


def check_image(content: bytes, max_pixels: int) -> None:
    """Refuse what would take a decoder too long or too much memory; nothing is decoded.

    Raises:
        Refusal: more pixels than allowed.
        ImageError: not an image, or its headers ask too much of a decoder.
    """
    width, height = dimensions(content)
    if width * height > max_pixels:
        raise Refusal(
            413,
            "too_many_pixels",
            f"The image has {width} x {height} pixels, {width * height / 1e6:.0f} million; the "
            f"limit is {max_pixels / 1e6:.0f} million. Save a smaller copy and search with that.",
        )


class _Incoming:
    """The messages of a request, counted."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        self._request, self._max_bytes = request, max_bytes
        self._bytes = 0
        self._has_ended = False

    async def receive(self) -> Message:
        announced = self._request.headers.get("content-length", "0")
        if int(announced) > self._max_bytes:  # digits, else the HTTP parser had refused it
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


async def _file_of(request: Request) -> UploadFile:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        try:
            form = await request.form(max_files=1, max_fields=0)
        except FormParserError as error:  # newer versions of Starlette say the same themselves
            raise Refusal(400, "bad_request", f"The form is broken: {error}") from error
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            await form.close()
            raise Refusal(400, "no_file", "The form has no file; expected one, named `file`.")
        return upload
    if kind and kind != "application/octet-stream" and not kind.startswith("image/"):
        raise Refusal(
            415,
            "wrong_type",
            f"The body is {kind!r}, expected an image: image/jpeg or its like, "
            "application/octet-stream, or a form (multipart/form-data) with the image as `file`.",
        )
    kept: Any = SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (its reader closes it)
    upload = UploadFile(kept, size=0)
    try:
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                await upload.write(chunk)
        await upload.seek(0)
    except BaseException:
        await upload.close()
        raise
    return upload
