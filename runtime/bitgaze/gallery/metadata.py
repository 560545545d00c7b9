"""Metadata of items: JSON objects, within limits that are the same for writing and reading.

Whatever is written can be read again, wherever: a deeper call stack or another Python must not
refuse what this one took. A file made with malice is held to the same limits.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

# In UTF-8. SQLite joins key, metadata and file to verify them, and holds at most 64 MB at once.
MAX_BYTES = 16 << 20
# Python's JSON, and recursive code of callers, fail at about 900.
MAX_DEPTH = 100
# Python reads this many whatever its limit for the conversion of integers.
MAX_DIGITS = 640


def to_text(metadata: dict[str, Any]) -> str:
    """Metadata as JSON, in ASCII; the names must be str.

    Raises:
        TypeError: a value that JSON does not have.
        ValueError: NaN or infinity, a name twice in an object, or a limit is exceeded.
    """
    try:
        text = json.dumps(metadata, allow_nan=False)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from error
    # Short text of one object cannot exceed a limit: most metadata are not read back.
    if len(text) > MAX_DIGITS or text.count("{") > 1 or text.count("[") >= MAX_DEPTH:
        from_text(text)
    return text


def from_text(text: str) -> dict[str, Any]:
    """Read metadata from JSON.

    Raises:
        ValueError: as for `to_text`; or the text is not a JSON object.
    """
    metadata = value_from(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"expected a JSON object, got {type(metadata).__name__}")
    if len(text) > MAX_BYTES or (not text.isascii() and len(text.encode()) > MAX_BYTES):
        raise ValueError(f"more than {MAX_BYTES:,} bytes as JSON")
    return metadata


def objects_from(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Read metadata of many items, five times as fast as `from_text`.

    Numbers are not checked: an overflow is read as infinity, and an integer may have more digits.

    Raises:
        ValueError: as for `from_text`.
    """
    try:
        found = _QUICK_DECODER.decode(f"[{','.join(texts)}]")
    except (ValueError, RecursionError):
        return [from_text(text) for text in texts]  # the error, or a text that Python can decode
    if len(found) != len(texts):
        return [from_text(text) for text in texts]
    return [
        # As many colons as names: no name is there twice, and no object is inside.
        value
        if type(value) is dict
        and text.count(":") == len(value)
        and text.count("[") < MAX_DEPTH
        and len(text) <= MAX_BYTES // 3
        else from_text(text)
        for value, text in zip(found, texts, strict=True)
    ]


def value_from(text: str) -> Any:
    """Read a value from JSON, without a limit for its size.

    Raises:
        ValueError: as for `from_text`.
    """
    try:
        value = _DECODER.decode(text)
    except RecursionError as error:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from error
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_too_deep(value):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def _is_too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has the same name twice")
    return found


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number


def _constant(text: str) -> None:
    raise ValueError(f"{text} is not a number of JSON")


_QUICK_DECODER = json.JSONDecoder(parse_constant=_constant)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_constant
)
