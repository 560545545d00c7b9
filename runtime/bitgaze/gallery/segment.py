"""Columns of a metadata field of successive chunks, laid end to end: few steps for a condition."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitgaze.gallery.column import ABSENT, Column, Test

_NOTHING = Column.of([ABSENT])


class Segment:
    """The columns of a field of some chunks.

    Args:
        columns: of each chunk; None if no item there has the field.
        sizes: number of items of each. A column may describe fewer items, the others lack the
            field; or more, which are left out.

    Attributes:
        columns: as given.
    """

    def __init__(self, columns: Sequence[Column | None], sizes: Sequence[int]) -> None:
        self.columns = columns
        self._count = sum(sizes)
        # Ranks of a column start at its first rank; 0 is absent.
        self._first_ranks: list[tuple[int, Column]] = []
        self._rank_count = 1
        self._owners: NDArray[np.int64] | None = None
        held = [column for column in columns if column is not None]
        if any(column.owners is not None for column in held):
            self._lay_lists(columns, sizes)
        else:
            self._lay(columns, sizes)

    def _lay(self, columns: Sequence[Column | None], sizes: Sequence[int]) -> None:
        self._ranks = np.zeros(self._count, np.uint32)
        start = 0
        for column, size in zip(columns, sizes, strict=True):
            if column is not None:
                described = min(size, column.slots)
                target = self._ranks[start : start + described]
                np.add(column.ranks[:described], self._add(column), out=target, dtype=np.uint32)
            start += size

    def _lay_lists(self, columns: Sequence[Column | None], sizes: Sequence[int]) -> None:
        ranks, owners = [], []
        start = 0
        for column, size in zip(columns, sizes, strict=True):
            described = 0
            if column is not None:
                described = min(size, column.slots)
                slots = np.arange(column.slots) if column.owners is None else column.owners
                is_described = slots < described
                first = self._add(column)
                ranks.append(np.add(column.ranks[is_described], first, dtype=np.uint32))
                owners.append(start + slots[is_described].astype(np.int64))
            ranks.append(np.zeros(size - described, np.uint32))
            owners.append(np.arange(start + described, start + size))
            start += size
        self._ranks, self._owners = np.concatenate(ranks), np.concatenate(owners)

    def _add(self, column: Column) -> int:
        first = self._rank_count
        self._first_ranks.append((first, column))
        self._rank_count += column.rank_count
        return first

    def matches(self, tests: Sequence[Test]) -> NDArray[np.bool_]:
        """Which items meet all conditions: bool, (items,)."""
        is_met = np.ones(self._rank_count, bool)
        matches = np.ones(self._count, bool)
        for test in tests:
            meets = np.zeros(self._rank_count, bool)
            meets[0] = _NOTHING.matches(test)[0] != test.is_negated
            for first, column in self._first_ranks:
                for start, end in column.ranges(test):
                    meets[first + start : first + end] = True
            if self._owners is not None:  # one element of a list meets one condition
                found = np.zeros(self._count, bool)
                found[self._owners[meets.take(self._ranks)]] = True
                matches &= ~found if test.is_negated else found
            else:
                is_met &= ~meets if test.is_negated else meets
        return matches if self._owners is not None else is_met.take(self._ranks)

    @property
    def nbytes(self) -> int:
        """About its size in memory."""
        owners = 0 if self._owners is None else self._owners.nbytes
        return self._ranks.nbytes + owners + sum(column.nbytes for _, column in self._first_ranks)
