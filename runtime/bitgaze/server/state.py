"""What all requests share: the gallery, what a request may ask for, and how many work at a time.

Knows the gallery and threads. Does not know what is asked.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from bitgaze.cores import available_cores
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.items import Item
from bitgaze.server.answers import Refusal

T = TypeVar("T")

MOST_HITS = 200


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        upload_bytes: of a request's body.
        upload_seconds: from a request's head to the last byte of its body.
        pixels: of an uploaded image.
    """

    upload_bytes: int = 32_000_000
    upload_seconds: float = 60
    pixels: int = 50_000_000


DEFAULT_LIMITS = Limits()


class Serving:
    """The gallery, and how much may be done with it at a time."""

    def __init__(self, gallery: Gallery, limits: Limits) -> None:
        self.gallery, self.limits = gallery, limits
        self._encodes = CapacityLimiter(available_cores())
        self._reads = CapacityLimiter(4 * available_cores())

    async def encoding(self, work: Callable[[], T]) -> T:
        """In a thread, with few others: what decodes an upload or runs the network."""
        return await to_thread.run_sync(work, limiter=self._encodes)

    async def reading(self, work: Callable[[], T]) -> T:
        """In a thread: what reads the gallery or a small image."""
        return await to_thread.run_sync(work, limiter=self._reads)


def serving_of(request: Request) -> Serving:
    """What the application of a request shares."""
    serving: Serving = request.app.state.serving
    return serving


def item_of(gallery: Gallery, key: str) -> Item:
    """The item with this key.

    Raises:
        Refusal: there is none.
    """
    try:
        return gallery.get(key)
    except KeyError as error:
        raise Refusal(
            404, "no_such_item", f"The gallery holds no item {key!r}; it may have been removed."
        ) from error


def check_model(gallery: Gallery) -> None:
    """Refuse what takes a model, where the gallery has none.

    Raises:
        Refusal: so it is.
    """
    if gallery.fingerprint is None:
        raise Refusal(
            409,
            "no_model",
            "This gallery holds codes without a model: it can be searched from its items, by key, "
            "not by an image.",
        )
