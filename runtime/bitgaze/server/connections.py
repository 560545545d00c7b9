"""HTTP connections: how many stay open, when they close, and which one makes room for another.

Whoever opens connections and sends nothing must not keep others out: the newest connection works,
and one that waits for its client closes instead.
"""

import asyncio
import ipaddress
import socket
from collections import Counter
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

# So that the process does not run out of files; and so that one client does not take all of them.
MAX_CONNECTIONS, MAX_PER_CLIENT = 384, 128
# Maximum time for the head of a request to arrive, and for a part of an answer to be taken.
_IDLE_SECONDS = 10
_FRESH_SECONDS = 1  # in which the first request may be on its way
_IPV6_BYTES = 8  # of an address that belong to a network: its owner chooses the others


class Connections:
    """The open connections of a server."""

    def __init__(self) -> None:
        self._open: dict[Connection, None] = {}  # oldest first

    def add(self, new: "Connection") -> None:
        """Note a new connection; above a limit, close the one that can best be spared.

        Of the client's connections if these are too many, else of the client with most of them: one
        that is idle, then one in the middle of its upload, then one that does not take its answer,
        then one that has just opened, the oldest first. If the server is at work for all, the new
        one.
        """
        self._open[new] = None
        counts = Counter(connection.origin for connection in self._open)
        if counts[new.origin] > MAX_PER_CLIENT:
            origin = new.origin
        elif len(self._open) > MAX_CONNECTIONS:
            origin = counts.most_common(1)[0][0]
        else:
            return
        spared = [
            (patience, position, connection)
            for position, connection in enumerate(self._open)
            if connection.origin == origin
            and connection is not new
            and (patience := connection.patience()) is not None
        ]
        closed = min(spared)[2] if spared else new
        del self._open[closed]
        closed.transport.abort()

    def discard(self, connection: "Connection") -> None:
        """Forget a connection that has closed."""
        self._open.pop(connection, None)


class Connection(H11Protocol):
    """An HTTP connection that closes when idle, and does not delay answers.

    Args:
        connections: all of the server.
        options: of the protocol, by uvicorn.

    Attributes:
        origin: what counts as one client: its IPv4 address, or its IPv6 network.
    """

    origin: bytes | str

    def __init__(self, connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._all = connections
        self._start = self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the connection."""
        super().connection_made(transport)
        self.origin = _origin(self.client[0] if self.client else "")
        # Otherwise the body of each answer waits 40 ms until the client acknowledges its head:
        # asyncio sets this only on sockets created with an explicit protocol number.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.call_later(_IDLE_SECONDS, self._close_if_idle, None, 0)
        self._all.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection."""
        self._all.discard(self)
        super().connection_lost(exc)

    def patience(self) -> int | None:
        """How well the client can be asked to come again, 0 best; None: the server is at work."""
        if self.transport.get_write_buffer_size():
            return 2
        if self.cycle is None and self.loop.time() - self._start < _FRESH_SECONDS:
            return 3
        if self._is_idle():
            return 0
        return 1 if self.cycle.more_body else None

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _close_if_idle(self, before: RequestResponseCycle | None, unsent_before: int) -> None:
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            if unsent == unsent_before:  # the client takes nothing of its answer
                self.transport.abort()
                return
        elif self.transport.is_closing():
            return
        elif self._is_idle() and self.cycle is before:
            self.transport.close()
            return
        self.loop.call_later(_IDLE_SECONDS, self._close_if_idle, self.cycle, unsent)


def _origin(address: str) -> bytes | str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    return parsed.packed[:_IPV6_BYTES]
