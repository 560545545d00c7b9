"""Which items a search may find: conditions on their metadata, and what answers them quickly.

Knows JSON values. Does not know SQL, slots' files or codes.
"""

import json
import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KEY = "@key"

RANGES = ("<", "<=", ">", ">=")
# Of a pattern, in bytes: SQLite's limit.
_LONGEST = 50_000
_OPERATORS = ("in", "!=", "like", *RANGES)
# Unlike in Python, false and true equal no number.
_OTHERS = (False, True, None)


@dataclass(frozen=True)
class Condition:
    """One thing that an item must fulfil.

    Attributes:
        field: of the metadata, or `KEY`.
        operator: "in", "!=", "like", "<", "<=", ">", ">=".
        operand: a tuple of values for "in", else a value.
    """

    field: str
    operator: str
    operand: Any


def conditions(where: Mapping[str, Any]) -> tuple[Condition, ...]:
    """What a caller's `where` asks for; all of it must hold.

    Args:
        where: field to a value that it equals, or to operators with what they compare to:
            `{"album": "2024", "year": {">=": 2020, "<": 2024}, "tag": {"in": ["cat", "dog"]},
            "name": {"like": "img%"}, "rating": {"!=": 1}}`. "@key" stands for the item's key.

    Raises:
        TypeError: `where` or a field is of another type.
        ValueError: an unknown operator, or a value that cannot be compared so.
    """
    if not isinstance(where, Mapping):
        raise TypeError(f"where is a dict, not {type(where).__name__}: {where!r}")
    found: list[Condition] = []
    for field, wanted in where.items():
        if not isinstance(field, str):
            raise TypeError(f"a field of where is a str, not {type(field).__name__}: {field!r}")
        if not isinstance(wanted, Mapping):
            found.append(Condition(field, "in", (_scalar(field, wanted),)))
            continue
        if not wanted:
            raise ValueError(f"where[{field!r}] is empty, expected {', '.join(_OPERATORS)}")
        found += [_condition(field, operator, operand) for operator, operand in wanted.items()]
    return tuple(found)


def _condition(field: str, operator: str, operand: Any) -> Condition:
    if operator not in _OPERATORS:
        raise ValueError(
            f"where[{field!r}] has operator {operator!r}, expected {', '.join(_OPERATORS)}"
        )
    if operator == "in":
        if isinstance(operand, str | Mapping) or not isinstance(operand, Iterable):
            raise ValueError(f'where[{field!r}]["in"] is {operand!r}, expected a list of values')
        return Condition(field, operator, tuple(_scalar(field, value) for value in operand))
    if operator in RANGES and not (_is_number(operand) or _is_text(operand)):
        raise ValueError(
            f"where[{field!r}][{operator!r}] is {operand!r}, expected a number or a text"
        )
    if operator == "like" and not _is_text(operand):
        raise ValueError(
            f'where[{field!r}]["like"] is {operand!r}, expected a text in which % stands for any '
            "characters and _ for one"
        )
    if operator == "like" and ("\0" in operand or len(operand.encode(errors="replace")) > _LONGEST):
        raise ValueError(
            f'where[{field!r}]["like"] has {len(operand):,} characters, expected at most '
            f"{_LONGEST:,} bytes of UTF-8, and no zero among them"
        )
    return Condition(field, operator, _scalar(field, operand))


def _scalar(field: str, value: Any) -> Any:
    if not _is_scalar(value):
        raise ValueError(
            f"where[{field!r}] is compared to {value!r}, expected a text, a number, true, false "
            'or null; one of several is {"in": [...]}'
        )
    if value != value:  # noqa: PLR0124 (NaN)
        raise ValueError(f"where[{field!r}] is compared to NaN, which equals nothing")
    return value


class Column:
    """One metadata field of all items, sorted so that conditions need not look at each of them.

    Numbers compare with numbers and texts with texts, by code points; true is no number. What is
    absent is null. A list fulfils a condition if one of its elements does; "!=" holds where
    equality does not. An object within fulfils nothing.

    Args:
        texts: of each item the field's value as JSON, or None; in order of slots.

    Raises:
        ValueError: a text that is not JSON.
    """

    def __init__(self, texts: Iterable[str | None]) -> None:
        # Items that say the same share a cell.
        seen: dict[str | None, int] = {}
        cell_of_item = array("i", (seen.setdefault(text, len(seen)) for text in texts))
        # Read as one list: a million calls would take seconds.
        cells: list[Any] = json.loads(f"[{','.join(text or 'null' for text in seen)}]")
        del seen  # of a million different texts: 140 MB
        numbers: list[Any] = []
        self._texts: list[str] = []
        for value in cells:
            for scalar in value if isinstance(value, list) else (value,):
                if isinstance(scalar, str):
                    self._texts.append(scalar)
                elif _is_number(scalar):
                    numbers.append(scalar)
        numbers, self._texts = _sorted(numbers), _sorted(self._texts)
        # A value's rank: its place among numbers, then texts, then false, true, null.
        ranks = {value: rank for rank, value in enumerate([*numbers, *self._texts])}
        self._numbers = _packed(numbers)
        self._cells = len(cells)
        self._cell_of_item = np.frombuffer(cell_of_item, np.dtype("i"))
        # Beside each other, of every value in every cell.
        cell_of_value, rank_of_value = array("i"), array("i")
        for cell, value in enumerate(cells):
            for scalar in value if isinstance(value, list) else (value,):
                if isinstance(scalar, str) or _is_number(scalar):
                    rank = ranks[scalar]
                elif _is_scalar(scalar):
                    rank = self._equal(scalar)[0]
                else:
                    continue  # a condition cannot be true of an object, or a list in a list
                cell_of_value.append(cell)
                rank_of_value.append(rank)
        self._cell_of_value = np.frombuffer(cell_of_value, np.dtype("i"))
        self._rank_of_value = np.frombuffer(rank_of_value, np.dtype("i"))

    def __len__(self) -> int:
        return len(self._cell_of_item)

    def matches(self, condition: Condition) -> NDArray[np.bool_]:
        """Which items fulfil a condition on this field: bool, (n,)."""
        wanted = np.zeros(len(self._numbers) + len(self._texts) + len(_OTHERS), bool)
        for start, end in self._ranks(condition):
            wanted[start:end] = True
        is_found = np.zeros(self._cells, bool)
        is_found[self._cell_of_value[wanted[self._rank_of_value]]] = True
        if condition.operator == "!=":
            is_found = ~is_found
        matching: NDArray[np.bool_] = is_found[self._cell_of_item]
        return matching

    def _ranks(self, condition: Condition) -> Iterable[tuple[int, int]]:
        """Ranges of ranks, of the values that fulfil a condition (for "!=": that equal it)."""
        operator, operand = condition.operator, condition.operand
        if operator == "in":
            return [self._equal(value) for value in operand]
        if operator == "!=":
            return [self._equal(operand)]
        first = len(self._numbers)
        if operator == "like":
            matches = like(operand)
            return [
                (first + n, first + n + 1) for n, text in enumerate(self._texts) if matches(text)
            ]
        values, offset = self._values_like(operand)
        start, end = 0, len(values)
        if operator in (">", ">="):
            start = (bisect_right if operator == ">" else bisect_left)(values, operand)
        else:
            end = (bisect_left if operator == "<" else bisect_right)(values, operand)
        return [(start + offset, end + offset)]

    def _equal(self, value: Any) -> tuple[int, int]:
        """The range of ranks that equal a value: one or none."""
        if value is None or isinstance(value, bool):
            rank = len(self._numbers) + len(self._texts) + _OTHERS.index(value)
            return rank, rank + 1
        values, offset = self._values_like(value)
        return bisect_left(values, value) + offset, bisect_right(values, value) + offset

    def _values_like(self, value: Any) -> tuple[Sequence[Any], int]:
        """All numbers or all texts, whichever a value is of, and the rank of the first."""
        return (self._texts, len(self._numbers)) if isinstance(value, str) else (self._numbers, 0)


def like(pattern: str) -> Callable[[str], object]:
    """Whether a text is like a pattern, as SQLite's LIKE: ASCII letters match in either case."""
    first, *others = (
        "".join("." if letter == "_" else re.escape(letter) for letter in part)
        for part in pattern.split("%")
    )
    expression = first
    if others:
        # Where a part between two "%" matches first is as good as any place: never tried again,
        # else five "%" take seconds for one text of 150 letters.
        between = "".join(f"(?>.*?{part})" for part in others[:-1] if part)
        expression += f"{between}.*{others[-1]}"
    # ASCII: as SQLite does, "K" matches "k" but not the sign of the Kelvin.
    return re.compile(expression, re.IGNORECASE | re.ASCII | re.DOTALL).fullmatch


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value is not True and value is not False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _sorted(values: list[Any]) -> list[Any]:
    """Each value once, ascending."""
    values.sort()
    # Not a set: that of a million texts takes 60 MB.
    return [value for n, value in enumerate(values) if n == 0 or value != values[n - 1]]


def _packed(numbers: list[Any]) -> Sequence[Any]:
    """Sorted numbers in 8 bytes each, where that loses nothing."""
    for code, kind in (("q", int), ("d", float)):
        if all(type(number) is kind for number in numbers):
            try:
                return array(code, numbers)
            except OverflowError:
                break
    return numbers
