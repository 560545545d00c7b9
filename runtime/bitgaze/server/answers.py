"""Answers in JSON, and errors in the one form that all of them have.

Turns any exception that a request meets into an answer with words that a person can act on.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from bitgaze.errors import GalleryError, ImageError, WhereError, WordError

_HTTP_ERRORS = {
    400: ("bad_request", "The request cannot be read."),
    404: ("no_such_page", "There is no such address; /api/docs lists all addresses."),
    405: ("wrong_method", "This address requires another method; /api/docs lists the methods."),
}
# Errors whose text is the message.
_TOLD = (
    (WordError, 404, "unknown_word"),
    (WhereError, 409, "bad_condition"),
    (GalleryError, 503, "gallery_unavailable"),
)


class Answer(JSONResponse):
    """JSON in ASCII: metadata may hold half of a surrogate pair, which UTF-8 cannot encode."""

    def render(self, content: Any) -> bytes:
        """The body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class Refusal(Exception):
    """The server refuses a request.

    Args:
        status: HTTP status, 400 to 599.
        code: one word in snake_case, for programs.
        message: for a person: what the request holds, what is expected, what to do.
        headers: further headers of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers

    def answer(self) -> Answer:
        """The answer: {"error": {"code", "message"}}."""
        body = {"error": {"code": self.code, "message": self.message}}
        return Answer(body, self.status, headers=self.headers)


async def error_answer(request: Request, error: Exception) -> Answer:
    """The answer to a request that met an exception of any kind."""
    return _refusal_for(error).answer()


def _refusal_for(error: Exception) -> Refusal:
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        code, message = _HTTP_ERRORS.get(error.status_code, ("refused", error.detail))
        if error.status_code == 400:
            message = error.detail  # from the multipart parser, which says what is wrong
        return Refusal(error.status_code, code, message, error.headers)
    if isinstance(error, ImageError):
        return Refusal(
            422,
            "not_an_image",
            f"The upload cannot be used ({error}). Try a JPEG, PNG, WebP, GIF or TIFF file.",
        )
    for kind, status, code in _TOLD:
        if isinstance(error, kind):
            return Refusal(status, code, str(error))
    return Refusal(500, "internal", "The server met an unexpected error; its terminal shows it.")
