"""The parameters in the query of an address, read and checked; unknown ones are errors."""

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from bitgaze.server.answers import Refusal

_MAX_QUOTED = 80  # characters of a wrong value that its message quotes


def parameters_of(request: Request, *known: str) -> dict[str, str]:
    """The parameters of a request, name to text.

    Raises:
        Refusal: a parameter is unknown, or appears twice.
    """
    parameters = dict(request.query_params)
    if len(parameters) < len(request.query_params.multi_items()):
        raise _refusal("A parameter appears twice; pass each once.")
    if unknown := sorted(set(parameters) - set(known)):
        expected = ", ".join(known) or "no parameters"
        raise _refusal(f"Unknown parameter {unknown[0][:_MAX_QUOTED]!r}; expected {expected}.")
    return parameters


def integer(parameters: dict[str, str], name: str, low: int, high: int) -> int | None:
    """An integer from low to high, or None if the parameter is missing.

    Raises:
        Refusal: it is something else.
    """
    if name not in parameters:
        return None
    text = parameters[name]
    if text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise _refusal(f"{name} is {text[:_MAX_QUOTED]!r}, expected an integer, {low} to {high}.")


def required(parameters: dict[str, str], name: str) -> str:
    """The text of a required parameter.

    Raises:
        Refusal: it is missing.
    """
    if name not in parameters:
        raise _refusal(f"{name} is missing; pass it as ?{name}=...")
    return parameters[name]


def boolean(parameters: dict[str, str], name: str) -> bool:
    """Whether the parameter is "true"; False if it is missing.

    Raises:
        Refusal: it is neither "true" nor "false".
    """
    text = parameters.get(name, "false")
    if text not in ("true", "false"):
        raise _refusal(f"{name} is {text[:_MAX_QUOTED]!r}, expected true or false.")
    return text == "true"


def condition(parameters: dict[str, str]) -> dict[str, Any] | None:
    """The parameter `where` as a JSON object; the gallery checks what is in it.

    Raises:
        Refusal: it is not a JSON object.
    """
    if "where" not in parameters:
        return None
    try:
        where = json.loads(parameters["where"])
    except (ValueError, RecursionError):
        where = None
    if not isinstance(where, dict):
        raise _refusal('where is not a JSON object; expected one like {"album": "2024"}.')
    return where


def code_from(text: str, bits: int) -> NDArray[np.uint8]:
    """A code, uint8, (bits // 8,), from its hexadecimal digits.

    Raises:
        Refusal: the text is not a code of this length.
    """
    try:
        code = np.frombuffer(bytes.fromhex(text), np.uint8)
    except ValueError:
        code = np.empty(0, np.uint8)
    if len(text) == bits // 4 and len(code) == bits // 8:
        return code
    raise _refusal(
        f"code is {text[:_MAX_QUOTED]!r}, expected {bits // 4} hexadecimal digits, as a search by "
        "image returns them."
    )


def _refusal(message: str) -> Refusal:
    return Refusal(400, "bad_argument", message)
