"""A server for tests: a real one, in a thread of this process, on a port of its own."""

import asyncio
import contextlib
import socket
import threading
import time

import uvicorn

from bitgaze.server import create_app
from bitgaze.server_run import configured


@contextlib.contextmanager
def served(gallery, port=0, **options):
    """The address of a server for a gallery, with options of `create_app`."""
    server = uvicorn.Server(configured(create_app(gallery, **options)))
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
    # A browser connects ahead of its requests, also while the server is ending.
    await asyncio.sleep(0.05)
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    await asyncio.sleep(0.05)
