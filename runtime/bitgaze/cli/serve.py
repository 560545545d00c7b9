"""`bitgaze serve`: a web page and a JSON API on this machine."""

import argparse
import json
import os

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
from bitgaze.errors import BitgazeError


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
    add_model(parser)


def serve(options: argparse.Namespace) -> int:
    """Serve a web page and a JSON API that search a gallery."""
    from bitgaze.gallery.gallery import Gallery

    try:
        from bitgaze.server.run import serve as run
    except ModuleNotFoundError as error:
        raise BitgazeError(
            f"bitgaze serve requires {str(error.name).partition('.')[0]}, which is not installed: "
            "pip install 'bitgaze[serve]'"
        ) from error
    check_kernel()
    quiet_pillow()
    with Gallery(options.gallery, encoder=encoder_for(options), create=False) as gallery:
        items = len(gallery)

        def announce(address: str) -> None:
            if options.json:
                facts = {"gallery": options.gallery, "items": items, "address": address}
                say(json.dumps(facts))
            else:
                say(f"{options.gallery}: {images(items)}", f"{address}  (press Ctrl-C to stop)")

        token = options.token  # --token "" is an error, not a request for the default
        if token is None:
            token = os.environ.get("BITGAZE_TOKEN") or None
        try:
            run(gallery, host=options.host, port=options.port, token=token, on_start=announce)
        except KeyboardInterrupt:  # the usual way to stop
            return OK
    return OK
