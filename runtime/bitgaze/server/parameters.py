"""What the query of an address says, checked. Nothing in it is ignored.

Knows text and what it may stand for; does not know who asks.
"""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from bitgaze.server.answers import Refusal

_SHOWN = 80  # characters of what was found, in a message


def arguments(request: Request, *known: str) -> dict[str, str]:
    """Name to text.

    Raises:
        Refusal: a name that is not known, or is there twice.
    """
    given = dict(request.query_params)
    if len(given) < len(request.query_params.multi_items()):
        raise _refusal("An argument is given twice; give each once.")
    if unknown := sorted(set(given) - set(known)):
        expected = ", ".join(known) or "no arguments at all"
        raise _refusal(f"{unknown[0][:_SHOWN]!r} means nothing here; expected {expected}.")
    return given


def integer(given: dict[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number from low to high, or None where there is none.

    Raises:
        Refusal: it is something else.
    """
    if name not in given:
        return None
    text = given[name]
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise _refusal(f"{name} is {text[:_SHOWN]!r}, expected an integer, {low} to {high}.")


def needed(given: dict[str, str], name: str) -> str:
    """The text of an argument that must be there.

    Raises:
        Refusal: it is not.
    """
    if name not in given:
        raise _refusal(f"{name} is missing; give it as ?{name}=...")
    return given[name]


def boolean(given: dict[str, str], name: str) -> bool:
    """Whether it is "true"; "false" where there is none.

    Raises:
        Refusal: it is something else.
    """
    text = given.get(name, "false")
    if text not in ("true", "false"):
        raise _refusal(f"{name} is {text[:_SHOWN]!r}, expected true or false.")
    return text == "true"


def condition(given: dict[str, str]) -> dict[str, Any] | None:
    """The `where` of a search, as far as it is a JSON object; the gallery checks the rest.

    Raises:
        Refusal: it is not.
    """
    if "where" not in given:
        return None
    try:
        where = json.loads(given["where"])
    except (ValueError, RecursionError):
        where = None
    if not isinstance(where, dict):
        raise _refusal('where is not a JSON object; expected one like {"album": "2024"}.')
    return where


def code_from(text: str, bits: int) -> NDArray[np.uint8]:
    """A code, uint8, (bits // 8,), from its hexadecimal digits.

    Raises:
        Refusal: these are not as many digits as a code has.
    """
    try:
        code = np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError:
        code = np.empty(0, np.uint8)
    if len(text) == bits // 4 and len(code) == bits // 8:
        return code
    raise _refusal(
        f"code is {text[:_SHOWN]!r}, expected {bits // 4} hexadecimal digits, as a search by "
        "image gives them."
    )


def _refusal(message: str) -> Refusal:
    return Refusal(400, "bad_argument", message)
