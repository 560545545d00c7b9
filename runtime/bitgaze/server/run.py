"""Runs a gallery's server, in this process or in several, from opening the socket to Ctrl-C.

Unless asked to, logs nothing, whatever requests arrive, except unexpected exceptions, to stderr.
"""

import errno
import ipaddress
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from bitgaze.errors import BitgazeError
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.app import create_app
from bitgaze.server.connections import MAX_CONNECTIONS, MAX_PER_CLIENT, Connection, Connections
from bitgaze.server.guard import LOOPBACK, check_token
from bitgaze.server.observe import SHARED_COUNTS, log_as_json

# Above this, requests are answered with 503. Connections alone never reach it.
_MAX_REQUESTS = MAX_CONNECTIONS + MAX_PER_CLIENT
_SHUTDOWN_SECONDS = 3  # maximum time for requests to finish
# In which a worker must answer its supervisor, and a new one, which loads the model and the
# gallery, must serve.
_WORKER_SECONDS = 20
_MAX_PORT = 65535


def serve(
    gallery: Gallery,
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    token: str | None = None,
    log: bool = False,
    on_start: Callable[[str], None],
) -> None:
    """Serve in this process until Ctrl-C.

    Args:
        gallery: an open gallery; it stays open.
        host: address or name to listen on. A non-loopback address requires a token; without one,
            the server makes a random one at each start.
        port: port to listen on; 0 for any free port.
        token: token to require; see `create_app`.
        log: whether to log each request, as a line of JSON to stderr.
        on_start: called once, with the address to open, when the server listens.

    Raises:
        BitgazeError: the host is unknown or the port is taken.
        ValueError: the token cannot be used, or the port is out of range.
    """
    token, hosts, is_local = _access(host, port, token)
    _set_up_logging(log=log)
    app = create_app(gallery, token=token, hosts=hosts, log=log, is_local=is_local)
    with _listen(host, port) as listener:
        on_start(_address(host, listener.getsockname()[1], token))
        uvicorn.Server(server_config(app, log=log)).run(sockets=[listener])


def serve_with_workers(
    open_gallery: Callable[[], Gallery],
    workers: int,
    *,
    host: str = "127.0.0.1",
    port: int = 8642,
    token: str | None = None,
    log: bool = False,
    on_start: Callable[[str], None],
) -> None:
    """Serve in several processes until SIGINT or SIGTERM.

    A worker that dies is replaced. On SIGHUP, a new worker takes the place of each old one as soon
    as it serves: it opens the gallery and the model as they are then, while requests are answered.

    Args:
        open_gallery: opens the gallery, in each worker; can be pickled.
        workers: number of processes, at least 1.
        host: as in `serve`.
        port: as in `serve`.
        token: as in `serve`.
        log: whether to log each request, as a line of JSON to stderr, and the life of workers.
        on_start: as in `serve`; the workers start after it.

    Raises:
        BitgazeError: the host is unknown, the port is taken, or no worker can start.
        ValueError: the token cannot be used, or the port or the number of workers is out of range.
    """
    if workers < 1:
        raise ValueError(f"workers is {workers}, expected at least 1")
    token, hosts, is_local = _access(host, port, token)
    if token is not None:
        check_token(token)
    _set_up_logging(log=log)
    access = {"token": token, "hosts": hosts, "is_local": is_local}
    app = partial(_worker_app, open_gallery, log=log, **access)
    config = server_config(app, log=log, workers=workers)
    with _shared_counts(), _listen(host, port) as listener:
        on_start(_address(host, listener.getsockname()[1], token))
        supervisor = Multiprocess(config, [listener])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise BitgazeError("no worker could start; the lines above say why")


@contextmanager
def _shared_counts() -> Iterator[None]:
    """A folder for the counts of all workers, which find it in their environment."""
    before = os.environ.get(SHARED_COUNTS)
    with TemporaryDirectory(prefix="bitgaze-metrics-") as folder:
        os.environ[SHARED_COUNTS] = folder
        try:
            yield
        finally:
            del os.environ[SHARED_COUNTS]
            if before is not None:
                os.environ[SHARED_COUNTS] = before


def _worker_app(open_gallery: Callable[[], Gallery], *, log: bool, **options: Any) -> Starlette:
    """The application of one worker, which has just started."""
    _set_up_logging(log=log)
    try:
        return create_app(open_gallery(), log=log, **options)
    except Exception as error:
        is_expected = isinstance(error, BitgazeError | OSError | ValueError)
        # Without --log this logger has no handler, and an error is a line of text on stderr.
        logging.getLogger("uvicorn.error").error(
            "a worker cannot start: %s", error, exc_info=not is_expected
        )
        sys.exit(STARTUP_FAILURE)


def _set_up_logging(*, log: bool) -> None:
    """Set up the logs of this process; each worker has its own."""
    # Otherwise it logs every malformed form, to stderr if logging is not set up.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    if log:
        log_as_json()


def server_config(
    app: Starlette | Callable[[], Starlette], *, log: bool = False, workers: int | None = None
) -> uvicorn.Config:
    """Settings with which uvicorn logs nothing unless asked to, and ends every connection in time.

    Args:
        app: the application; with workers, what returns it.
        log: whether uvicorn logs when workers start and end.
        workers: number of processes.
    """
    connection: Any = partial(Connection, Connections())
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="info" if log else "error",
        access_log=False,
        server_header=False,
        limit_concurrency=_MAX_REQUESTS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        timeout_worker_healthcheck=_WORKER_SECONDS,
        factory=workers is not None,
        workers=workers,
    )


def _access(host: str, port: int, token: str | None) -> tuple[str | None, set[str], bool]:
    """The token to require, the names to answer to, and whether only this machine can connect.

    Raises:
        ValueError: the port is out of range.
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
    return token, hosts, is_local


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
