"""What the server says when it cannot do what was asked: one form, words a person can act on.

Knows errors and HTTP. Does not know which request met them.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from bitgaze.errors import GalleryError, ImageError

_WORDS = {
    400: ("bad_request", "The request cannot be read."),
    404: ("no_such_page", "There is no such address here; /api/docs lists those there are."),
    405: ("wrong_method", "This address takes another method; /api/docs says which."),
}


class Answer(JSONResponse):
    """JSON in ASCII: metadata may hold half of a surrogate pair, which no other encoding takes."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Refusal(Exception):
    """A request that is not answered, and why.

    Args:
        status: of HTTP, 400 to 599.
        code: one word for programs, in snake_case; never changes.
        message: for a person: what was found, what is expected, what to do.
        headers: of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    def response(self) -> Answer:
        """The answer: {"error": {"code", "message"}}."""
        body = {"error": {"code": self.code, "message": self.message}}
        return Answer(body, self.status, headers=self.headers)


async def refused(request: Request, error: Exception) -> Answer:
    """Any exception that a request met, as an answer."""
    return _refusal(error).response()


def _refusal(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        code, message = _WORDS.get(error.status_code, ("refused", error.detail))
        if error.status_code == 400:
            message = error.detail  # of the multipart parser: it knows what is wrong
        return Refusal(error.status_code, code, message, error.headers)
    if isinstance(error, ImageError):
        return Refusal(
            422,
            "not_an_image",
            f"The upload cannot be used ({error}). Take a JPEG, PNG, WebP, GIF or TIFF file.",
        )
    if isinstance(error, GalleryError):
        return Refusal(503, "gallery_unavailable", str(error))
    return Refusal(
        500, "internal", "The server met an error that it does not know; its terminal shows it."
    )
