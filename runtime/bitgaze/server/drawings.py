"""Drawings of items' images: a few are made at a time, each once, and kept while there is room."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from anyio import CapacityLimiter, Event, to_thread

# Decoding one image may take hundreds of megabytes.
_MAX_AT_ONCE = 2
_MAX_KEPT_BYTES = 64 << 20
_ENTRY_BYTES = 1000  # of a key and the dict, about


@dataclass
class _Pending:
    """A drawing that is being made. Neither content nor error: its request was cancelled."""

    done: Event = field(default_factory=Event)
    content: bytes | None = None
    error: Exception | None = None


class Drawings:
    """JPEG files by key: equal requests share one, and the last used ones stay in memory.

    Args:
        max_at_once: maximum number that is made at a time; further ones wait, without a thread.
        max_kept_bytes: maximum size of those in memory.
    """

    def __init__(
        self, max_at_once: int = _MAX_AT_ONCE, max_kept_bytes: int = _MAX_KEPT_BYTES
    ) -> None:
        self._threads = CapacityLimiter(max_at_once)
        self._max_kept_bytes = max_kept_bytes
        self._kept: dict[Hashable, bytes] = {}  # the last used one last
        self._kept_bytes = 0
        self._pending: dict[Hashable, _Pending] = {}

    async def get(self, key: Hashable, draw: Callable[[], bytes]) -> bytes:
        """The drawing with this key; if it is neither kept nor being made, draw it in a thread.

        Raises:
            Exception: what drawing raises, for all requests that share it. It is not kept.
        """
        while True:
            if (content := self._kept.pop(key, None)) is not None:
                self._kept[key] = content
                return content
            if (pending := self._pending.get(key)) is None:
                return await self._make(key, draw)
            await pending.done.wait()
            if pending.error is not None:
                raise pending.error.with_traceback(None)  # each raise adds to it
            if pending.content is not None:
                return pending.content

    async def _make(self, key: Hashable, draw: Callable[[], bytes]) -> bytes:
        pending = self._pending[key] = _Pending()
        try:
            pending.content = await to_thread.run_sync(draw, limiter=self._threads)
        except Exception as error:
            pending.error = error
            raise
        finally:
            del self._pending[key]
            pending.done.set()
        self._keep(key, pending.content)
        return pending.content

    def _keep(self, key: Hashable, content: bytes) -> None:
        size = len(content) + _ENTRY_BYTES
        if size > self._max_kept_bytes:
            return
        self._kept[key] = content
        self._kept_bytes += size
        while self._kept_bytes > self._max_kept_bytes:
            oldest = next(iter(self._kept))
            self._kept_bytes -= len(self._kept.pop(oldest)) + _ENTRY_BYTES
