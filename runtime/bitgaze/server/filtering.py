"""Keeps searches with slow conditions from delaying other requests.

A gallery compares every text with a pattern, looks at every key for a range, and reads every item
for a field that it keeps no column of, and before the first search by words. At a million items
that takes a tenth of a second for texts and keys, and seconds for items.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread

from bitgaze.gallery.filters import KEY, RANGE_OPERATORS, Condition
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.answers import Refusal

_MAX_WAITING, _RETRY_SECONDS = 8, 5


class Filtering:
    """Runs searches with slow conditions one after the other.

    Args:
        gallery: the gallery.
        max_slow: maximum number of fields of a search for which it looks at every item.
        threads: for reading the gallery.
    """

    def __init__(self, gallery: Gallery, max_slow: int, threads: CapacityLimiter) -> None:
        self._gallery, self._max_slow, self._threads = gallery, max_slow, threads
        self._turn = CapacityLimiter(1)

    def check(self, conditions: Collection[Condition], unread: Collection[str] = ()) -> None:
        """Check how many fields are slow.

        Args:
            conditions: of the search.
            unread: those of their fields of which every item must be read.

        Raises:
            Refusal: too many.
        """
        slow = _slow_fields(conditions).union(unread)
        if len(slow) > self._max_slow:
            raise Refusal(
                429,
                "too_many_conditions",
                f"where has {len(slow)} fields that are compared with a pattern, ranges of the "
                "key, or fields too rare to be kept as columns; the limit is "
                f"{self._max_slow}, since all items must be looked at for each.",
            )

    @asynccontextmanager
    async def ready_for(
        self, conditions: Collection[Condition], *, is_slow: bool = False
    ) -> AsyncIterator[None]:
        """A context in which the gallery may be searched with these conditions.

        Args:
            conditions: of the search.
            is_slow: whether the search is slow without them.

        Raises:
            Refusal: too many fields are slow, or too many slow searches wait already.
        """
        fields = {condition.field for condition in conditions} - {KEY}
        is_slow = is_slow or bool(_slow_fields(conditions))
        if not (is_slow or (fields and await self._unread(fields))):
            yield
            return
        if self._turn.statistics().tasks_waiting >= _MAX_WAITING:
            raise Refusal(
                503,
                "busy",
                f"{_MAX_WAITING} searches by words, or with patterns, ranges of keys or rare "
                "fields in `where`, wait already. Try again in a few seconds.",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        async with self._turn:
            unread = await self._unread(fields)
            self.check(conditions, unread)
            if unread:
                await to_thread.run_sync(
                    lambda: self._gallery.read_fields(*unread), limiter=self._threads
                )
            yield

    async def _unread(self, fields: Collection[str]) -> set[str]:
        return await to_thread.run_sync(
            lambda: self._gallery.unread_fields(*fields), limiter=self._threads
        )


def _slow_fields(conditions: Collection[Condition]) -> set[str]:
    return {
        condition.field
        for condition in conditions
        if condition.operator == "like"
        or (condition.field == KEY and condition.operator in RANGE_OPERATORS)
    }
