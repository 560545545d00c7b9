"""A metadata field of some thousands of items as a sorted column: conditions, and bytes of a file.

Pure logic; columns.py keeps columns in a gallery.

Bytes of a column, little-endian, without padding:
  header     8 uint32: slots, values, whether a list is among them (0 or 1), integers, floats,
             strings, bytes of the strings, bytes of the large integers
  integers   int64, sorted and distinct, as are all of these
  floats     float64
  ends       uint32 for each string: where it ends in the strings
  ranks      of each value, by slot: uint16 if that is enough for all ranks, else uint32
  owners     uint16, the slot of each value; missing if no value is a list
  strings    UTF-8 in Unicode's composed form; a lone surrogate as three bytes
  large      JSON list of the integers beyond 64 bits
Ranks number integers, floats, large integers, strings, false, true, what no condition finds (an
object, an empty list), null, and absent, in this order.
"""

import json
import math
import struct
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bitgaze.gallery.filters import Condition, composed
from bitgaze.gallery.metadata import MAX_DIGITS, value_from
from bitgaze.gallery.texts import Pattern, Texts

MAX_SLOTS = 4096

_HEADER = struct.Struct("<8I")
# So few are kept as objects of Python, which are found five times as fast.
_FEW_STRINGS = 256
_TOO_LARGE = 10**MAX_DIGITS
# Ranks after the last string.
_FALSE, _TRUE, _OTHER, _NULL, _ABSENT, _CONSTANTS = range(6)


class _Absent:
    """The type of `ABSENT`."""


ABSENT: Final = _Absent()
_OTHER_VALUE: Final = _Absent()


class Test:
    """A condition, ready for many columns.

    Args:
        condition: on a field of metadata.

    Attributes:
        is_negated: whether the items that meet it are those that `Column.ranges` does not find.
        pattern: of "like", else None.
        spans: (low, high, is_open) of the values that it finds; None: to the end. Open: without
            these.
    """

    __test__ = False  # for pytest

    def __init__(self, condition: Condition) -> None:
        operator, operand = condition.operator, condition.operand
        self.is_negated = operator == "!="
        self.pattern = Pattern(composed(operand)) if operator == "like" else None
        self.spans: list[tuple[Any, Any, bool]] = []
        if operator in ("in", "!="):
            values = operand if operator == "in" else (operand,)
            self.spans = [(value, value, False) for value in map(_comparable, values)]
        elif operator in (">", ">="):
            self.spans = [(_comparable(operand), None, operator == ">")]
        elif operator in ("<", "<="):
            self.spans = [(None, _comparable(operand), operator == "<")]


def _comparable(value: Any) -> Any:
    return composed(value).encode("utf-8", "surrogatepass") if isinstance(value, str) else value


@dataclass(frozen=True, eq=False)
class Column:
    """One metadata field of the items in successive slots, at most `MAX_SLOTS`.

    Numbers compare with numbers, and strings with strings by code point after `composed`, so that
    an accented letter has one spelling; true is not a number. An absent field is null. A list meets
    a condition if one of its elements does; "!=" is the negation of equality. A nested object meets
    no condition.

    Attributes:
        slots: number of slots.
        integers: int64, distinct, ascending; as are the others.
        floats: float64.
        large: integers beyond 64 bits.
        ends: uint32, where each string ends in `text`.
        text: the strings.
        ranks: uint16 or uint32, of each value, by slot.
        owners: uint16, the slot of each value; None if each slot has one.
    """

    slots: int
    integers: NDArray[np.int64]
    floats: NDArray[np.float64]
    large: tuple[int, ...]
    ends: NDArray[np.uint32]
    text: bytes
    ranks: NDArray[np.unsignedinteger[Any]]
    owners: NDArray[np.uint16] | None

    @staticmethod
    def of(values: Sequence[Any]) -> "Column":
        """The column of JSON values, one for each slot; `ABSENT` where an item lacks the field.

        Raises:
            ValueError: a number that is not finite, or an integer of more than `MAX_DIGITS`.
        """
        kinds, slots = set(map(type, values)), len(values)
        owners: list[int] | None = None
        if list in kinds:
            pairs = [
                (slot, element) for slot, value in enumerate(values) for element in _elements(value)
            ]
            values = [element for _, element in pairs]
            if len(pairs) != slots or [slot for slot, _ in pairs] != list(range(slots)):
                owners = [slot for slot, _ in pairs]
            kinds = set(map(type, values))
        if dict in kinds or list in kinds:
            values = [_OTHER_VALUE if isinstance(v, dict | list) else v for v in values]
        # 1, 1.0 and true are one key of a dict.
        is_ambiguous = len(kinds & {int, float, bool}) > 1
        keys = list(zip(map(type, values), values, strict=True)) if is_ambiguous else values
        distinct: set[Any] = set(keys)

        def of_kind(kind: type) -> list[Any]:
            if kind not in kinds:
                return []
            if len(kinds) == 1:
                return [v for _, v in distinct] if is_ambiguous else list(distinct)
            if is_ambiguous:
                return [v for k, v in distinct if k is kind]
            return [v for v in distinct if type(v) is kind]

        found = sorted(of_kind(int))
        small = slice(bisect_left(found, -(2**63)), bisect_left(found, 2**63))
        integers, large = found[small], found[: small.start] + found[small.stop :]
        floats = sorted(of_kind(float))
        if not all(map(math.isfinite, floats)):
            raise ValueError("a number is not finite")
        if any(not -_TOO_LARGE < n < _TOO_LARGE for n in large):
            raise ValueError(f"an integer has more than {MAX_DIGITS} digits")
        spelled = {text: composed(text) for text in of_kind(str)}
        strings = sorted(set(spelled.values()))
        encoded = [text.encode("utf-8", "surrogatepass") for text in strings]

        rank: dict[Any, int] = {}
        for kind, group in ((int, integers), (float, floats), (int, large)):
            start = len(rank)
            if is_ambiguous:
                rank.update(((kind, v), start + n) for n, v in enumerate(group))
            else:
                rank.update(zip(group, range(start, start + len(group)), strict=True))
        first = len(rank)
        rank_of_string = dict(zip(strings, range(first, first + len(strings)), strict=True))
        last = first + len(strings)
        for text, spelling in spelled.items():
            rank[(str, text) if is_ambiguous else text] = rank_of_string[spelling]
        for value, offset in (
            (False, _FALSE),
            (True, _TRUE),
            (_OTHER_VALUE, _OTHER),
            (None, _NULL),
            (ABSENT, _ABSENT),
        ):
            # Unless the values hold true or false, these would hide 0 and 1.
            if type(value) in kinds or value is _OTHER_VALUE:
                rank[(type(value), value) if is_ambiguous else value] = last + offset
        return Column(
            slots,
            np.array(integers, np.int64),
            np.array(floats, np.float64) + 0.0,  # -0.0 is 0.0
            tuple(large),
            np.cumsum(list(map(len, encoded)), dtype=np.uint32),
            b"".join(encoded),
            np.fromiter(map(rank.__getitem__, keys), _rank_type(last + _CONSTANTS), len(keys)),
            None if owners is None else np.array(owners, np.uint16),
        )

    def matches(self, condition: Condition | Test) -> NDArray[np.bool_]:
        """Which items meet a condition on this field: bool, (slots,)."""
        test = condition if isinstance(condition, Test) else Test(condition)
        is_met = np.zeros(self.rank_count, bool)
        for start, end in self.ranges(test):
            is_met[start:end] = True
        if self.owners is None:
            matches: NDArray[np.bool_] = is_met[self.ranks]
        else:
            matches = np.zeros(self.slots, bool)
            matches[self.owners[is_met[self.ranks]]] = True
        return ~matches if test.is_negated else matches

    def without(self, slots: Sequence[int]) -> "Column":
        """The column with the field absent in some slots; values that only they had are gone."""
        is_removed = np.zeros(self.slots, bool)
        is_removed[slots] = True
        absent = self._constants + _ABSENT
        ranks, owners = self.ranks, self.owners
        if owners is None:
            ranks = np.where(is_removed, absent, ranks)
        else:
            removed = np.flatnonzero(is_removed).astype(np.uint16)
            is_kept = ~is_removed[owners]
            owners = np.concatenate([owners[is_kept], removed])
            ranks = np.concatenate([ranks[is_kept], np.full(len(removed), absent)])
            order = np.argsort(owners, kind="stable")
            ranks, owners = ranks[order], owners[order]
            if np.array_equal(owners, np.arange(self.slots)):
                owners = None
        is_used = np.zeros(self._constants + _CONSTANTS, bool)
        is_used[ranks] = True
        is_used[self._constants :] = True
        integers, floats, large, strings, _ = np.split(is_used, self._starts)
        lengths = np.diff(self.ends, prepend=np.uint32(0))
        text = np.frombuffer(self.text, np.uint8)[np.repeat(strings, lengths)]
        new_ranks = np.cumsum(is_used) - 1
        return Column(
            self.slots,
            self.integers[integers],
            self.floats[floats],
            tuple(n for n, is_kept in zip(self.large, large, strict=True) if is_kept),
            np.cumsum(lengths[strings], dtype=np.uint32),
            text.tobytes(),
            new_ranks[ranks].astype(_rank_type(int(new_ranks[-1]) + 1)),
            owners,
        )

    def holds(self, slots: Sequence[int]) -> bool:
        """Whether an item in one of these slots has the field."""
        if self.owners is None:
            return bool((self.ranks[slots] != self._constants + _ABSENT).any())
        has_field = np.zeros(self.slots, bool)
        has_field[self.owners[self.ranks != self._constants + _ABSENT]] = True
        return bool(has_field[slots].any())

    @property
    def kinds(self) -> set[type]:
        """Types of its values that ranges compare: float for any number, and str."""
        has_numbers = len(self.integers) or len(self.floats) or self.large
        kinds: set[type] = {float} if has_numbers else set()
        return kinds | {str} if len(self.ends) else kinds

    @property
    def is_empty(self) -> bool:
        """Whether no item has the field."""
        return bool((self.ranks == self._constants + _ABSENT).all())

    @property
    def nbytes(self) -> int:
        """About its size in memory."""
        values = 8 * (len(self.integers) + len(self.floats)) + 4 * len(self.ends)
        owners = 0 if self.owners is None else self.owners.nbytes
        # The text twice: the other arrays are views of bytes that hold it too.
        return 1000 + 2 * len(self.text) + values + self.ranks.nbytes + owners

    def to_bytes(self) -> bytes:
        """The column as in the module's docstring."""
        large = json.dumps(self.large).encode() if self.large else b""
        header = _HEADER.pack(
            self.slots,
            len(self.ranks),
            self.owners is not None,
            len(self.integers),
            len(self.floats),
            len(self.ends),
            len(self.text),
            len(large),
        )
        arrays: list[NDArray[Any]] = [self.integers, self.floats, self.ends, self.ranks]
        arrays += [] if self.owners is None else [self.owners]
        parts = [np.ascontiguousarray(a, a.dtype.newbyteorder("<")).tobytes() for a in arrays]
        return b"".join([header, *parts, self.text, large])

    @staticmethod
    def from_bytes(blob: bytes) -> "Column":
        """Read a column; its arrays are views of the bytes.

        Checks whatever could make a later call fail; whether values are sorted and text is valid is
        a matter of the checksum, and of verification.

        Raises:
            ValueError: the bytes are not those of a column.
        """
        if len(blob) < _HEADER.size:
            raise ValueError("a column is too short")
        slots, values, has_owners, integers, floats, strings, text, large = _HEADER.unpack_from(
            blob
        )
        numbers: list[int] = []
        if large:
            numbers = value_from(blob[max(len(blob) - large, 0) :].decode())
            if not isinstance(numbers, list) or not all(type(n) is int for n in numbers):
                raise ValueError("large integers of a column are damaged")
        ranks = integers + floats + len(numbers) + strings + _CONSTANTS
        counts: list[tuple[Any, int]] = [
            (np.int64, integers),
            (np.float64, floats),
            (np.uint32, strings),
            (_rank_type(ranks), values),
            (np.uint16, values if has_owners else 0),
        ]
        arrays: list[NDArray[Any]] = []
        start = _HEADER.size
        for kind, count in counts:
            end = start + count * np.dtype(kind).itemsize
            if end > len(blob):
                raise ValueError("a column is too short")
            array = np.frombuffer(blob, kind, count, start)
            arrays.append(array if sys.byteorder == "little" else array.byteswap())
            start = end
        ends, found, owners = arrays[2:]
        if (
            slots > MAX_SLOTS
            or has_owners > 1
            or (not has_owners and values != slots)
            or start + text + large != len(blob)
            or (strings and (int(ends[-1]) != text or bool((ends[1:] < ends[:-1]).any())))
            or (not strings and text)
            or (values and int(found.max()) >= ranks)
            or (has_owners and values and int(owners.max()) >= slots)
        ):
            raise ValueError("numbers of a column are damaged")
        strings_text = blob[start : start + text]
        if not strings_text.isascii():
            strings_text.decode("utf-8", "surrogatepass")
        return Column(
            slots,
            arrays[0],
            arrays[1],
            tuple(numbers),
            ends,
            strings_text,
            found,
            owners if has_owners else None,
        )

    @property
    def _starts(self) -> list[int]:
        """First ranks of floats, large integers, strings, and constants."""
        lengths = [len(self.integers), len(self.floats), len(self.large), len(self.ends)]
        return [sum(lengths[: n + 1]) for n in range(4)]

    @cached_property
    def _constants(self) -> int:
        """The rank of false."""
        return len(self.integers) + len(self.floats) + len(self.large) + len(self.ends)

    @cached_property
    def rank_count(self) -> int:
        """All ranks are below this number."""
        return self._constants + _CONSTANTS

    @cached_property
    def _texts(self) -> Texts:
        return Texts(self.text, self.ends)

    @cached_property
    def _strings(self) -> Sequence[bytes] | Texts:
        texts = self._texts
        return texts if len(texts) > _FEW_STRINGS else [texts[n] for n in range(len(texts))]

    @cached_property
    def _numbers(self) -> list[tuple[Any, int]]:
        """Groups of numbers and their first ranks."""
        floats, large, *_ = self._starts
        # As Python's numbers, which compare exactly; those of numpy would be rounded.
        groups: list[tuple[Any, int]] = [
            (self.integers.data, 0),
            (self.floats.data, floats),
            (self.large, large),
        ]
        return [(group, start) for group, start in groups if len(group)]

    def ranges(self, test: Test) -> Iterator[tuple[int, int]]:
        """Ranges of ranks of the values that meet a condition (negated: that do not)."""
        first = self._constants - len(self.ends)
        if test.pattern is not None:
            if len(self.ends):
                numbers = first + test.pattern.numbers(self._texts)
                yield from _runs(numbers)
            return
        for low, high, is_open in test.spans:
            value = high if low is None else low
            if value is None or isinstance(value, bool):
                start = self._constants + (_NULL if value is None else _TRUE if value else _FALSE)
                yield start, start + (2 if value is None else 1)  # absent is null
                continue
            is_text = isinstance(value, bytes)
            for group, start in [(self._strings, first)] if is_text else self._numbers:
                yield from _between(group, start, low, high, is_open=is_open)


def _between(
    group: Any, start: int, low: Any, high: Any, *, is_open: bool
) -> Iterator[tuple[int, int]]:
    """The range of ranks of a group's values from `low` to `high`, if there are any."""
    count = len(group)
    if low is high:
        place = bisect_left(group, low)
        if place < count and group[place] == low:
            yield start + place, start + place + 1
        return
    left, right = (bisect_right, bisect_left) if is_open else (bisect_left, bisect_right)
    first = 0 if low is None else left(group, low)
    last = count if high is None else right(group, high)
    if first < last:
        yield start + first, start + last


def _runs(numbers: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of successive numbers, which ascend."""
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts = np.concatenate([numbers[:1], numbers[breaks + 1]])
    lasts = np.concatenate([numbers[breaks], numbers[-1:]])
    return zip(firsts.tolist(), (lasts + 1).tolist(), strict=True)


def _elements(value: Any) -> Sequence[Any]:
    return (value or (_OTHER_VALUE,)) if isinstance(value, list) else (value,)


def _rank_type(ranks: int) -> type[np.unsignedinteger[Any]]:
    return np.uint16 if ranks <= 1 << 16 else np.uint32
