"""Keeps searches with slow conditions from delaying other requests.

A gallery reads a metadata field of every item for the first condition on it, and compares every
text with a pattern. At a million items that takes seconds, and nobody else can read meanwhile.
"""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import numpy as np
from anyio import CapacityLimiter, to_thread

from bitgaze.gallery.filters import KEY, RANGE_OPERATORS, Condition
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.answers import Refusal

# As many fields as the gallery keeps.
_MAX_KNOWN = 64
_MAX_WAITING, _RETRY_SECONDS = 8, 5


class Filtering:
    """Runs searches with slow conditions one after the other."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._known: dict[str, None] = {}
        self._written = self._last_written()
        self._turn = CapacityLimiter(1)

    def slow_fields(self, conditions: Collection[Condition]) -> list[str]:
        """The fields for which the gallery looks at every item, sorted."""
        if (written := self._last_written()) != self._written:
            self._written = written
            self._known.clear()  # the gallery reads fields again after a commit
        return sorted(
            {
                condition.field
                for condition in conditions
                if condition.field not in self._known
                or condition.operator == "like"
                or (condition.field == KEY and condition.operator in RANGE_OPERATORS)
            }
        )

    @asynccontextmanager
    async def ready_for(self, conditions: Collection[Condition]) -> AsyncIterator[None]:
        """A context in which the gallery may be searched with these conditions.

        Before it starts, new fields are read one at a time: other requests come in between.

        Raises:
            Refusal: too many such searches wait already.
            GalleryError: the gallery cannot be read.
        """
        if not self.slow_fields(conditions):
            yield
            return
        if self._turn.statistics().tasks_waiting >= _MAX_WAITING:
            raise Refusal(
                503,
                "busy",
                f"{_MAX_WAITING} searches with new fields or patterns in `where` wait already. Try "
                "again in a few seconds, or search without filters.",
                {"Retry-After": str(_RETRY_SECONDS)},
            )
        async with self._turn:
            for field in sorted({condition.field for condition in conditions} - set(self._known)):
                await to_thread.run_sync(self._read, field)
                self._known[field] = None
                if len(self._known) > _MAX_KNOWN:
                    del self._known[next(iter(self._known))]
            yield

    def _last_written(self) -> list[tuple[int, int]]:
        """Sizes and times of the gallery's files."""
        found = []
        for path in (self._gallery.path, Path(f"{self._gallery.path}-wal")):
            with suppress(OSError):  # no log, or no file any more
                status = path.stat()
                found.append((status.st_size, status.st_mtime_ns))
        return found

    def _read(self, field: str) -> None:
        anything = np.zeros(self._gallery.bits // 8, np.uint8)
        self._gallery.search_code(anything, 1, where={field: None})
