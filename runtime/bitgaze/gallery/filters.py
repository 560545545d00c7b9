"""Filters: conditions on metadata, and a sorted column per field that evaluates them quickly.

Works on JSON values alone; the SQL is in items.py.
"""

import re
import unicodedata
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitgaze.gallery.metadata import value_from

KEY = "@key"

RANGE_OPERATORS = ("<", "<=", ">", ">=")
_OPERATORS = ("in", "!=", "like", *RANGE_OPERATORS)
# SQLite's limit for a LIKE pattern.
_MAX_PATTERN_BYTES = 50_000
# Ranked after numbers and strings: unlike in Python, false and true equal no number.
_CONSTANTS = (False, True, None)


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


class Column:
    """One metadata field of all items, sorted, so that a condition becomes ranges of ranks.

    Numbers compare with numbers, and strings with strings by code point after `composed`, so that
    an accented letter has one spelling; true is not a number. An
    absent field is null. A list meets a condition if one of its elements does; "!=" is the negation
    of equality. A nested object meets no condition.

    Args:
        texts: the field's value in each item as JSON, or None if absent; in slot order.

    Raises:
        ValueError: a text is not JSON within the limits of metadata.py.
    """

    def __init__(self, texts: Iterable[str | None]) -> None:
        # Items with equal values share a cell.
        seen: dict[str | None, int] = {}
        cell_of_item = array("i", (seen.setdefault(text, len(seen)) for text in texts))
        # Parsed as one list: a million calls would take seconds.
        cells: list[Any] = value_from(f"[{','.join(text or 'null' for text in seen)}]")
        del seen  # 140 MB for a million different texts
        numbers: list[Any] = []
        self._strings: list[str] = []
        for value in cells:
            for scalar in _elements(value):
                if isinstance(scalar, str):
                    self._strings.append(composed(scalar))
                elif _is_number(scalar):
                    numbers.append(scalar)
        numbers, self._strings = _sorted(numbers), _sorted(self._strings)
        # A value's rank: its position among numbers, then strings, then false, true, null.
        ranks = {value: rank for rank, value in enumerate([*numbers, *self._strings])}
        self._numbers = _packed(numbers)
        self._cells = len(cells)
        self._cell_of_item = np.frombuffer(cell_of_item, np.dtype("i"))
        # Parallel arrays over every value in every cell.
        cell_of_value, rank_of_value = array("i"), array("i")
        for cell, value in enumerate(cells):
            for scalar in _elements(value):
                if isinstance(scalar, str):
                    rank = ranks[composed(scalar)]
                elif _is_number(scalar):
                    rank = ranks[scalar]
                elif _is_scalar(scalar):
                    rank = self._equal(scalar)[0]
                else:
                    continue  # no condition holds for an object, or for a list in a list
                cell_of_value.append(cell)
                rank_of_value.append(rank)
        self._cell_of_value = np.frombuffer(cell_of_value, np.dtype("i"))
        self._rank_of_value = np.frombuffer(rank_of_value, np.dtype("i"))

    def __len__(self) -> int:
        return len(self._cell_of_item)

    def matches(self, condition: Condition) -> NDArray[np.bool_]:
        """Which items meet a condition on this field: bool, (n,), by slot."""
        rank_matches = np.zeros(len(self._numbers) + len(self._strings) + len(_CONSTANTS), bool)
        for start, end in self._ranks(condition):
            rank_matches[start:end] = True
        cell_matches = np.zeros(self._cells, bool)
        cell_matches[self._cell_of_value[rank_matches[self._rank_of_value]]] = True
        if condition.operator == "!=":
            cell_matches = ~cell_matches
        matches: NDArray[np.bool_] = cell_matches[self._cell_of_item]
        return matches

    def _ranks(self, condition: Condition) -> Iterable[tuple[int, int]]:
        """Ranges of ranks of the values that meet a condition (for "!=": that equal it)."""
        operator, operand = condition.operator, condition.operand
        if isinstance(operand, str):
            operand = composed(operand)
        if operator == "in":
            return [
                self._equal(composed(value) if isinstance(value, str) else value)
                for value in operand
            ]
        if operator == "!=":
            return [self._equal(operand)]
        first = len(self._numbers)
        if operator == "like":
            matches = like(operand)
            return [
                (first + n, first + n + 1) for n, text in enumerate(self._strings) if matches(text)
            ]
        values, offset = self._same_type(operand)
        start, end = 0, len(values)
        if operator in (">", ">="):
            start = (bisect_right if operator == ">" else bisect_left)(values, operand)
        else:
            end = (bisect_left if operator == "<" else bisect_right)(values, operand)
        return [(start + offset, end + offset)]

    def _equal(self, value: Any) -> tuple[int, int]:
        """The range of ranks that equal a value: one rank, or an empty range."""
        if value is None or isinstance(value, bool):
            rank = len(self._numbers) + len(self._strings) + _CONSTANTS.index(value)
            return rank, rank + 1
        values, offset = self._same_type(value)
        return bisect_left(values, value) + offset, bisect_right(values, value) + offset

    def _same_type(self, value: Any) -> tuple[Sequence[Any], int]:
        """The sorted strings for a string, else the sorted numbers; and the rank of the first."""
        return (self._strings, len(self._numbers)) if isinstance(value, str) else (self._numbers, 0)


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


def _elements(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else (value,)


def _sorted(values: list[Any]) -> list[Any]:
    """Sort values in place and return them without duplicates."""
    values.sort()
    # Not a set, which takes 60 MB for a million strings.
    return [value for n, value in enumerate(values) if n == 0 or value != values[n - 1]]


def _packed(numbers: list[Any]) -> Sequence[Any]:
    """Sorted numbers in 8 bytes each if that loses nothing."""
    for code, kind in (("q", int), ("d", float)):
        if all(type(number) is kind for number in numbers):
            try:
                return array(code, numbers)
            except OverflowError:
                break
    return numbers
