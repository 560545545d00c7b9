"""Filters: conditions on metadata. column.py evaluates them."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

KEY = "@key"

RANGE_OPERATORS = ("<", "<=", ">", ">=")
_OPERATORS = ("in", "!=", "like", *RANGE_OPERATORS)
# SQLite's limit for a LIKE pattern.
_MAX_PATTERN_BYTES = 50_000


@dataclass(frozen=True)
class Condition:
    """One condition on one field of an item's metadata.

    Attributes:
        field: name of a metadata field, or `KEY` for the item's key.
        operator: "in", "!=", "like", "<", "<=", ">" or ">=".
        operand: a tuple of values for "in", a single value otherwise.
    """

    field: str
    operator: str
    operand: Any


def conditions(where: Mapping[str, Any] | None) -> tuple[Condition, ...]:
    """Parse the `where` argument of a search; an item must meet all conditions.

    Args:
        where: maps each field to the value it must equal, or to operators and their operands:
            `{"album": "2024", "year": {">=": 2020, "<": 2024}, "tag": {"in": ["cat", "dog"]},
            "name": {"like": "img%"}, "rating": {"!=": 1}}`. "@key" stands for the item's key.
            None: no condition.

    Raises:
        TypeError: `where` is not a dict, or a field is not a str.
        ValueError: an unknown operator, or an operand that it cannot compare.
    """
    if where is None:
        return ()
    if not isinstance(where, Mapping):
        raise TypeError(f"where must be a dict, got {type(where).__name__}: {where!r}")
    parsed: list[Condition] = []
    for field, value in where.items():
        if not isinstance(field, str):
            raise TypeError(f"fields of where must be str, got {type(field).__name__}: {field!r}")
        if not isinstance(value, Mapping):
            parsed.append(Condition(field, "in", (_scalar(field, value),)))
            continue
        if not value:
            raise ValueError(
                f"where[{field!r}] has no operator, expected one of {', '.join(_OPERATORS)}"
            )
        parsed += [_condition(field, operator, operand) for operator, operand in value.items()]
    return tuple(parsed)


def _condition(field: str, operator: str, operand: Any) -> Condition:
    if operator not in _OPERATORS:
        raise ValueError(
            f"where[{field!r}] has operator {operator!r}, expected one of {', '.join(_OPERATORS)}"
        )
    if operator == "in":
        if isinstance(operand, str | Mapping) or not isinstance(operand, Iterable):
            raise ValueError(f'where[{field!r}]["in"] is {operand!r}, expected a list of values')
        return Condition(field, operator, tuple(_scalar(field, value) for value in operand))
    if operator in RANGE_OPERATORS and not (_is_number(operand) or isinstance(operand, str)):
        raise ValueError(
            f"where[{field!r}][{operator!r}] is {operand!r}, expected a number or a string"
        )
    if operator == "like":
        _check_pattern(field, operand)
    return Condition(field, operator, _scalar(field, operand))


def _check_pattern(field: str, pattern: Any) -> None:
    if not isinstance(pattern, str):
        raise ValueError(
            f'where[{field!r}]["like"] is {pattern!r}, expected a string in which % matches any '
            "characters and _ matches one"
        )
    if "\0" in pattern:
        raise ValueError(f'where[{field!r}]["like"] must not contain a NUL character')
    pattern_bytes = len(pattern.encode(errors="replace"))
    if pattern_bytes > _MAX_PATTERN_BYTES:
        raise ValueError(
            f'where[{field!r}]["like"] has {pattern_bytes:,} bytes in UTF-8, expected at most '
            f"{_MAX_PATTERN_BYTES:,}"
        )


def _scalar(field: str, value: Any) -> Any:
    if not _is_scalar(value):
        raise ValueError(
            f"where[{field!r}] is compared with {value!r}, expected a string, a number, true, "
            'false or null; to match one of several values, use {"in": [...]}'
        )
    if value != value:  # noqa: PLR0124 (NaN)
        raise ValueError(f"where[{field!r}] is compared with NaN, which equals nothing")
    return value


def like(pattern: str) -> Callable[[str], object]:
    """A function that matches a string against a pattern, exactly as SQLite's LIKE does.

    ASCII letters match in either case.
    """
    first, *others = (
        "".join("." if letter == "_" else re.escape(letter) for letter in part)
        for part in pattern.split("%")
    )
    expression = first
    if others:
        # The first match of a part between two "%" is as good as any later one, so the group is
        # atomic: with backtracking, five "%" take seconds on a string of 150 letters.
        between = "".join(f"(?>.*?{part})" for part in others[:-1] if part)
        expression += f"{between}.*{others[-1]}"
    # ASCII: as in SQLite, "K" matches "k" but not the Kelvin sign.
    return re.compile(expression, re.IGNORECASE | re.ASCII | re.DOTALL).fullmatch


def composed(text: str) -> str:
    """A string in Unicode's composed form (NFC), in which equal letters have one spelling.

    File names of macOS, and metadata made from them, have accents apart from their letters.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value is not True and value is not False
