"""What all requests share: the gallery, their limits, and the threads that do the work."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bitgaze.cores import available_cores
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.items import Item
from bitgaze.gallery.query import Query
from bitgaze.server.answers import Refusal
from bitgaze.server.drawings import Drawings
from bitgaze.server.filtering import Filtering
from bitgaze.server.groups import Groups

T = TypeVar("T")

MAX_HITS = 200

_MAX_HEALTH_WAIT_S, _HEALTH_THREADS = 0.03, 64


@dataclass(frozen=True)
class Limits:
    """The limits of a request.

    Attributes:
        upload_bytes: maximum size of a request's body.
        upload_seconds: maximum time from a request's head to the last byte of its body.
        pixels: maximum number of pixels of an uploaded image.
        conditions: maximum number of conditions in `where`.
        slow_fields: maximum number of fields in `where` that make the gallery look at every item:
            those compared with a pattern (`like`), the key with a range, and those of which the
            gallery keeps no column.
    """

    upload_bytes: int = 32_000_000
    upload_seconds: float = 60
    pixels: int = 50_000_000
    conditions: int = 32
    slow_fields: int = 4


DEFAULT_LIMITS = Limits()


class ServerState:
    """A gallery and its limits, and how many threads may work on it at a time.

    Args:
        gallery: the gallery.
        limits: of a request.
        is_local: whether only this machine can reach the server.
    """

    def __init__(self, gallery: Gallery, limits: Limits, *, is_local: bool) -> None:
        self.gallery, self.limits, self.is_local = gallery, limits, is_local
        self.drawings = Drawings()
        self.groups = Groups(gallery)
        self._encoding_threads = CapacityLimiter(available_cores())
        self._reading_threads = CapacityLimiter(4 * available_cores())
        self.filtering = Filtering(gallery, limits.slow_fields, self._reading_threads)
        self._health_threads = CapacityLimiter(_HEALTH_THREADS)
        self._counter = ThreadPoolExecutor(1)
        self._items = len(gallery)
        self._counting: Future[int] | None = None

    async def run_encoding(self, work: Callable[[], T]) -> T:
        """Run work on an upload, in one of a few threads."""
        return await to_thread.run_sync(work, limiter=self._encoding_threads)

    async def run_reading(self, work: Callable[[], T]) -> T:
        """Run work that reads the gallery, in one of more threads."""
        return await to_thread.run_sync(work, limiter=self._reading_threads)

    async def item_count(self) -> int:
        """The number of items; the last known one if other requests keep the gallery for long."""
        if self._counting is None or self._counting.done():
            self._counting = self._counter.submit(len, self.gallery)
        counting = self._counting
        await to_thread.run_sync(
            lambda: wait([counting], _MAX_HEALTH_WAIT_S), limiter=self._health_threads
        )
        if counting.done():
            self._items = counting.result()
        return self._items


def state_of(request: Request) -> ServerState:
    """The state of the application that a request belongs to."""
    state: ServerState = request.app.state.server
    return state


def item_of(gallery: Gallery, key: str) -> Item:
    """The item with this key.

    Raises:
        Refusal: there is none.
    """
    try:
        return gallery.get(key)
    except KeyError as error:
        raise _no_such_item(key) from error


def _no_such_item(key: str) -> Refusal:
    message = f"The gallery has no item {key!r}; it may have been removed."
    return Refusal(404, "no_such_item", message)


def item_query(gallery: Gallery, key: str) -> Query:
    """The query for the item with this key.

    Raises:
        Refusal: there is none.
    """
    try:
        return gallery.item_query(key)
    except KeyError as error:
        raise _no_such_item(key) from error


def check_model(gallery: Gallery) -> None:
    """Check that the gallery has a model.

    Raises:
        Refusal: it stores codes without one.
    """
    if gallery.fingerprint is None:
        raise Refusal(
            409,
            "no_model",
            "This gallery stores codes without a model: search it by the key of an item, or by a "
            "code, not by an image.",
        )
