"""The parameters in the query of an address, read and checked; unknown ones are errors."""

import json
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request

from bitgaze.encoding.images import Box
from bitgaze.gallery.query import Query
from bitgaze.server.answers import Refusal

Text = TypeVar("Text", bound=str)

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


def boolean(parameters: dict[str, str], name: str, *, default: bool = False) -> bool:
    """Whether the parameter is "true"; the default if it is missing.

    Raises:
        Refusal: it is neither "true" nor "false".
    """
    text = choice(parameters, name, ("true", "false"))
    return default if text is None else text == "true"


def choice(parameters: dict[str, str], name: str, texts: Sequence[Text]) -> Text | None:
    """One of some texts, or None if the parameter is missing.

    Raises:
        Refusal: it is another one.
    """
    if name not in parameters:
        return None
    for text in texts:
        if text == parameters[name]:
            return text
    expected = f"{', '.join(texts[:-1])} or {texts[-1]}"
    raise _refusal(f"{name} is {parameters[name][:_MAX_QUOTED]!r}, expected {expected}.")


def keys_of(parameters: dict[str, str], name: str, least: int, most: int) -> list[str]:
    """The keys in a required parameter, a JSON array; each once.

    Raises:
        Refusal: it is something else, or has another number of keys.
    """
    text = required(parameters, name)
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        keys = None
    is_list = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not is_list or not least <= len(keys) <= most or len(set(keys)) < len(keys):
        raise _refusal(
            f"{name} is {text[:_MAX_QUOTED]!r}, expected a JSON array of {least} to {most} keys, "
            "each once."
        )
    return list(keys)


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


def query_from(text: str, bits: int, looks: int) -> Query:
    """A query from the hexadecimal digits of a code, or of a query as a search by image returns it.

    Raises:
        Refusal: the text is neither, for codes of this length.
    """
    try:
        content = bytes.fromhex(text) if text.isalnum() else b""
        if len(content) == bits // 8:
            return Query(np.frombuffer(content, np.uint8)[None], (None,))
        query = Query.from_bytes(content, bits)
        if not looks and len(query.views) > 1:
            raise ValueError("the items have one code each")
        return query
    except ValueError as error:
        raise _refusal(
            f"code is {text[:_MAX_QUOTED]!r}, expected {bits // 4} hexadecimal digits, or what a "
            "search by image returned."
        ) from error


def region(parameters: dict[str, str]) -> Box | None:
    """The parameter `region`, "left,top,right,bottom" in [0, 1]; None if it is missing.

    Raises:
        Refusal: it is something else.
    """
    if "region" not in parameters:
        return None
    text = parameters["region"]
    try:
        if not re.fullmatch(r"[0-9.]{1,20}(,[0-9.]{1,20}){3}", text):
            raise ValueError
        left, top, right, bottom = map(float, text.split(","))
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise ValueError
    except ValueError as error:
        raise _refusal(
            f"region is {text[:_MAX_QUOTED]!r}, expected left,top,right,bottom of a part of the "
            "image, each from 0 to 1, such as 0.2,0.1,0.7,0.6."
        ) from error
    return left, top, right, bottom


def _refusal(message: str) -> Refusal:
    return Refusal(400, "bad_argument", message)
