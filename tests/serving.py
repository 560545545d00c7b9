"""Servers for tests: in process behind a client, or in a thread on a port."""

import asyncio
import contextlib
import socket
import threading
import time

import uvicorn
from starlette.testclient import TestClient

from bitgaze.server.app import create_app
from bitgaze.server.run import server_config

TOKEN = "a-token-that-nobody-guesses"


def client_of(app, **options):
    """A test client that sees answers, not exceptions, as any client does."""
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, **options)


def refusal(answer, status):
    """The code and message of a refusal; checks its status and its form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"code", "message"}
    return error["code"], error["message"]


def read_all(connection):
    """Everything the server sends until it closes the connection."""
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def served(gallery, port=0, **options):
    """Run a server for a gallery, with options of `create_app`; yields its address."""
    server = uvicorn.Server(server_config(create_app(gallery, **options)))
    with socket.create_server(("127.0.0.1", port), backlog=512) as listener:
        thread = threading.Thread(target=asyncio.run, args=[_run(server, listener)])
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


async def _run(server, listener):
    await server.serve(sockets=[listener])
    # A browser opens connections ahead of its requests, even while the server shuts down.
    await asyncio.sleep(0.05)
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0.05)
