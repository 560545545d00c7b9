"""A gallery's server, from the socket to Ctrl-C.

Knows sockets, addresses and uvicorn. Says nothing of its own, whatever requests come; an exception
that nobody expected is on stderr.
"""

import asyncio
import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from bitgaze.errors import BitgazeError
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.app import create_app
from bitgaze.server.guard import LOOPBACK

# Beyond this many requests at once further ones are answered 503, so that files stay to be opened.
_MOST_CONNECTIONS = 400
# For the head of a request to arrive, and for what is on its way when the server ends.
_HEAD_SECONDS, _LAST_SECONDS = 10, 3
_LAST_PORT = 65535


def serve(
    gallery: Gallery,
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    token: str | None = None,
    on_start: Callable[[str], None],
) -> None:
    """Serve until Ctrl-C.

    Args:
        gallery: stays open.
        host: address or name to listen on. One that others can reach needs a token, and gets one
            that is new at each start if none is given.
        port: to listen on; 0 for any that is free.
        token: to ask for; see `create_app`.
        on_start: called once with the address to open, when it can be opened.

    Raises:
        BitgazeError: the host is unknown or the port taken.
        ValueError: a token or port that there cannot be.
    """
    if not 0 <= port <= _LAST_PORT:
        raise ValueError(f"port is {port}, expected 0 to {_LAST_PORT}")
    hosts = {*LOOPBACK, host}  # 127.0.0.2 is this machine, too
    if not _is_loopback(host):
        name = socket.gethostname()
        hosts |= {name, f"{name}.local"}
        if token is None:
            token = secrets.token_urlsafe(24)
    config = configured(create_app(gallery, token=token, hosts=hosts))
    with _listening(host, port) as listener:
        on_start(_address(host, listener.getsockname()[1], token))
        uvicorn.Server(config).run(sockets=[listener])


def configured(app: Starlette) -> uvicorn.Config:
    """How uvicorn runs an application: quietly, and with an end to everything."""
    # It tells of every form that is none, on stderr if nobody has set logging up.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_SECONDS,
    )


class _Connection(H11Protocol):
    """As uvicorn's, but it ends where no request begins, and answers without a pause."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Else the body of each answer waits 40 ms for the client to confirm its head: asyncio sets
        # this only on sockets that were made with the protocol's number.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop.call_later(_HEAD_SECONDS, self._look, None)

    def _look(self, before: RequestResponseCycle | None) -> None:
        if self.transport.is_closing():
            return
        is_waiting = self.cycle is None or self.cycle.response_complete
        if is_waiting and self.cycle is before:
            self.transport.close()
        else:
            self.loop.call_later(_HEAD_SECONDS, self._look, self.cycle)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except socket.gaierror as error:
        raise BitgazeError(
            f"{host}: {error.strerror}; --host takes an address or name of this machine"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise BitgazeError(
                f"{host}: not an address of this machine; --host takes one, or 0.0.0.0 for all"
            ) from error
        raise BitgazeError(
            f"{host} port {port}: {error}; choose another with --port, or 0 for any that is free"
        ) from error


def _address(host: str, port: int, token: str | None) -> str:
    if host in ("0.0.0.0", "::"):
        host = _outer_address() or socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    query = "" if token is None else f"?token={token}"
    return f"http://{host}:{port}/{query}"


def _outer_address() -> str | None:
    """The address that others reach this machine at, as far as its routes tell; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of a network that is for documents only
        except OSError:
            return None
        return str(probe.getsockname()[0])
