"""Counts and logs requests: metrics for Prometheus, and a line of JSON each.

Neither holds an address, a key, a word, a token or an image of a request: only which part of the
API it asked for, how it was answered, and how long that took.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# The folder in which the workers of a server share their counts: prometheus_client reads this
# variable when it is imported.
SHARED_COUNTS = "PROMETHEUS_MULTIPROC_DIR"
OTHER = "other"  # every address that is not the API's or the page's
_CLIENT_LEFT = 499  # not an HTTP status, but what nginx logs where no answer was taken
# A search takes milliseconds, the first by words of a large gallery seconds.
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_requests_log = logging.getLogger("bitgaze.requests")


@dataclass(frozen=True)
class Answered:
    """A request that has ended.

    Attributes:
        method: GET, POST or HEAD; "other" for all others.
        route: the path of an address of the server, or "other".
        status: the HTTP status; 499 if the client left before the answer began.
        seconds: from the head of the request to the last byte of the answer.
        sent: bytes of the answer's body.
    """

    method: str
    route: str
    status: int
    seconds: float
    sent: int


class Observe:
    """ASGI middleware that reports each request when it has ended.

    Args:
        app: the application.
        routes: the paths that are reported as they are; all others are "other".
        report: called with each request, in the thread of the event loop.
    """

    def __init__(
        self, app: ASGIApp, routes: Collection[str], report: Callable[[Answered], None]
    ) -> None:
        self._app, self._routes, self._report = app, frozenset(routes), report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status, sent = _CLIENT_LEFT, 0

        async def watched_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception:
            status = 500  # answered outside of all middleware
            raise
        finally:
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else OTHER
            route = scope["path"] if scope["path"] in self._routes else OTHER
            self._report(Answered(method, route, status, time.perf_counter() - start, sent))


class Metrics:
    """Counts of requests, of this process or, with `SHARED_COUNTS` set, of all workers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._is_shared = SHARED_COUNTS in os.environ
        self._requests = Counter(
            "bitgaze_requests",
            "Requests that have ended.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "bitgaze_request_seconds",
            "Time from the head of a request to the last byte of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._bytes = Counter(
            "bitgaze_sent_bytes", "Bytes of answers' bodies.", registry=self._registry
        )

    def count(self, answered: Answered) -> None:
        """Count a request."""
        self._requests.labels(answered.method, answered.route, answered.status).inc()
        self._seconds.labels(answered.route).observe(answered.seconds)
        self._bytes.inc(answered.sent)

    def text(self, items: int, facts: dict[str, str]) -> bytes:
        """All metrics in the text format of Prometheus.

        Args:
            items: the number of items of the gallery.
            facts: labels of `bitgaze_info`.
        """
        registry = CollectorRegistry()
        registry.register(_GalleryCollector(items, facts))
        if self._is_shared:
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        else:
            for collector in (self._requests, self._seconds, self._bytes):
                registry.register(collector)
            ProcessCollector(registry=registry)
        return generate_latest(registry)


class _GalleryCollector(Collector):
    def __init__(self, items: int, facts: dict[str, str]) -> None:
        self._items, self._facts = items, facts

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("bitgaze_items", "Images in the gallery.", self._items)
        info = GaugeMetricFamily(
            "bitgaze_info", "Always 1; its labels name what is served.", labels=list(self._facts)
        )
        info.add_metric(list(self._facts.values()), 1)
        yield info


def log_request(answered: Answered) -> None:
    """Write a request to the log."""
    facts = asdict(answered)
    facts["seconds"] = round(answered.seconds, 6)
    _requests_log.info("request", extra={"facts": facts})


def log_as_json() -> None:
    """Log requests, errors and the life of workers to stderr, a line of JSON each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    for name in ("bitgaze.requests", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        time_ = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": time_,
            "level": record.levelname.lower(),
            "process": record.process,
            "event": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)
