"""`bitgaze serve`: a web page and a JSON API on this machine."""

import argparse
import json
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from bitgaze.cli.options import (
    OK,
    Commands,
    add_command,
    add_gallery,
    add_model,
    check_kernel,
    encoder_for,
    quiet_pillow,
)
from bitgaze.cli.terminal import images, say
from bitgaze.encoding.memory import budget, limit
from bitgaze.errors import BitgazeError

if TYPE_CHECKING:
    from bitgaze.gallery.gallery import Gallery


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, serve)
    add_gallery(parser)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: %(default)s), or 0.0.0.0 for all addresses of this "
        "machine; any address but a loopback one requires a token",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=8642,
        help="port to listen on (default: %(default)s), or 0 for any free port",
    )
    parser.add_argument(
        "--token",
        help="token to require, at least 16 characters (default: $BITGAZE_TOKEN, or a random one "
        "if the address requires a token)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="serve in N processes under a supervisor that replaces those that die, and all of "
        "them, one after the other, on SIGHUP; each holds the codes and the model (default: one "
        "process, without a supervisor)",
    )
    parser.add_argument(
        "--log",
        action="store_true",
        help="write a line of JSON to stderr for each request: its time, method, route, status, "
        "seconds and bytes, and nothing of its content",
    )
    add_model(parser)


def serve(options: argparse.Namespace) -> int:
    """Serve a web page and a JSON API that search a gallery."""
    try:
        from bitgaze.server.run import serve as run
        from bitgaze.server.run import serve_with_workers
    except ModuleNotFoundError as error:
        raise BitgazeError(
            f"bitgaze serve requires {str(error.name).partition('.')[0]}, which is not installed: "
            "pip install 'bitgaze[serve]'"
        ) from error
    check_kernel()
    quiet_pillow()
    token = options.token  # --token "" is an error, not a request for the default
    if token is None:
        token = os.environ.get("BITGAZE_TOKEN") or None
    settings: dict[str, Any] = {
        "host": options.host,
        "port": options.port,
        "token": token,
        "log": options.log,
    }
    if options.workers is None:
        with _open(options) as gallery:
            announce = partial(_announce, options, len(gallery))
            with suppress(KeyboardInterrupt):  # the usual way to stop
                run(gallery, on_start=announce, **settings)
    else:
        announce = partial(_announce, options, _checked_count(options))
        share = budget().total_bytes // max(options.workers, 1)
        open_gallery = partial(_open_in_worker, options, share)
        serve_with_workers(open_gallery, options.workers, on_start=announce, **settings)
    return OK


def _announce(options: argparse.Namespace, items: int, address: str) -> None:
    if options.json:
        say(json.dumps({"gallery": options.gallery, "items": items, "address": address}))
    else:
        say(f"{options.gallery}: {images(items)}", f"{address}  (press Ctrl-C to stop)")


def _checked_count(options: argparse.Namespace) -> int:
    """The number of items, if a worker will be able to open the gallery and its model."""
    with _open(options) as gallery:
        if gallery.fingerprint is not None:
            _ = gallery.encoder
        return len(gallery)


def _open_in_worker(options: argparse.Namespace, decoded_bytes: int) -> "Gallery":
    """Open the gallery in a process that `main` has not prepared."""
    quiet_pillow()
    limit(decoded_bytes)
    return _open(options)


def _open(options: argparse.Namespace) -> "Gallery":
    from bitgaze.gallery.gallery import Gallery

    return Gallery(options.gallery, encoder=encoder_for(options), create=False)
