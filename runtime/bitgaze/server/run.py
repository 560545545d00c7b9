"""Runs a gallery's server, from opening the socket to Ctrl-C.

Logs nothing, whatever requests arrive, except unexpected exceptions, to stderr.
"""

import errno
import ipaddress
import logging
import secrets
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from starlette.applications import Starlette

from bitgaze.errors import BitgazeError
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.app import create_app
from bitgaze.server.connections import MAX_CONNECTIONS, MAX_PER_CLIENT, Connection, Connections
from bitgaze.server.guard import LOOPBACK

# Above this, requests are answered with 503. Connections alone never reach it.
_MAX_REQUESTS = MAX_CONNECTIONS + MAX_PER_CLIENT
_SHUTDOWN_SECONDS = 3  # maximum time for requests to finish
_MAX_PORT = 65535


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
        gallery: an open gallery; it stays open.
        host: address or name to listen on. A non-loopback address requires a token; without one,
            the server makes a random one at each start.
        port: port to listen on; 0 for any free port.
        token: token to require; see `create_app`.
        on_start: called once, with the address to open, when the server listens.

    Raises:
        BitgazeError: the host is unknown or the port is taken.
        ValueError: the token cannot be used, or the port is out of range.
    """
    if not 0 <= port <= _MAX_PORT:
        raise ValueError(f"port is {port}, expected 0 to {_MAX_PORT}")
    hosts = {*LOOPBACK, host}  # such as 127.0.0.2
    is_local = _is_loopback(host)
    if not is_local:
        name = socket.gethostname()
        hosts |= {name, f"{name}.local"}
        if token is None:
            token = secrets.token_urlsafe(24)
    config = server_config(create_app(gallery, token=token, hosts=hosts, is_local=is_local))
    with _listen(host, port) as listener:
        on_start(_address(host, listener.getsockname()[1], token))
        uvicorn.Server(config).run(sockets=[listener])


def server_config(app: Starlette) -> uvicorn.Config:
    """Settings with which uvicorn logs nothing, and ends every connection in time."""
    # Otherwise it logs every malformed form, to stderr if logging is not set up.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    connection: Any = partial(Connection, Connections())
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=512)
    except socket.gaierror as error:
        raise BitgazeError(
            f"{host}: {error.strerror}; --host requires an address or name of this machine"
        ) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise BitgazeError(
                f"{host}: not an address of this machine; use one, or 0.0.0.0 for all of them"
            ) from error
        raise BitgazeError(
            f"{host} port {port}: {error}; choose another with --port, or 0 for any free port"
        ) from error


def _address(host: str, port: int, token: str | None) -> str:
    if host in ("0.0.0.0", "::"):
        host = _outer_address() or socket.gethostname()
    if ":" in host:
        host = f"[{host}]"
    query = "" if token is None else f"?token={token}"
    return f"http://{host}:{port}/{query}"


def _outer_address() -> str | None:
    """This machine's address in its network, from its routes; sends nothing. None if unknown."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # a network reserved for documentation
        except OSError:
            return None
        return str(probe.getsockname()[0])
