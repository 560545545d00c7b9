"""Keeps searches with slow conditions from delaying other requests.

A gallery compares every text with a pattern, and looks at every key for a range. At a million items
that takes a second, and nobody else can read meanwhile.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from anyio import CapacityLimiter

from bitgaze.gallery.filters import KEY, RANGE_OPERATORS, Condition
from bitgaze.server.answers import Refusal

_MAX_WAITING, _RETRY_SECONDS = 8, 5


def slow_fields(conditions: Collection[Condition]) -> list[str]:
    """The fields for which the gallery looks at every item, sorted."""
    return sorted(
        {
            condition.field
            for condition in conditions
            if condition.operator == "like"
            or (condition.field == KEY and condition.operator in RANGE_OPERATORS)
        }
    )


class Filtering:
    """Runs searches with slow conditions one after the other."""

    def __init__(self) -> None:
        self._turn = CapacityLimiter(1)

    @asynccontextmanager
    async def ready_for(self, conditions: Collection[Condition]) -> AsyncIterator[None]:
        """A context in which the gallery may be searched with these conditions.

        Raises:
            Refusal: too many slow searches wait already.
        """
        if not slow_fields(conditions):
            yield
            return
        if self._turn.statistics().tasks_waiting >= _MAX_WAITING:
            raise Refusal(
                503,
                "busy",
                f"{_MAX_WAITING} searches with patterns or ranges of keys in `where` wait already. "
                "Try again in a few seconds, or search without filters.",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        async with self._turn:
            yield
