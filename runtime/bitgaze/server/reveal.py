"""Shows an item's file in the file manager of this machine: for its own browser alone, by key."""

import ipaddress
import os
import shutil
import sys

import click
from starlette.requests import Request

from bitgaze.server.answers import Answer, Refusal
from bitgaze.server.images import file_of
from bitgaze.server.parameters import parameters_of, required
from bitgaze.server.state import ServerState, item_of, state_of


def can_reveal(request: Request) -> bool:
    """Whether the client is on this machine, and this machine has a desktop."""
    return _is_local(request, state_of(request)) and _has_desktop()


async def reveal(request: Request) -> Answer:
    """Open the folder of an item's file, with the file selected where the file manager can."""
    key = required(parameters_of(request, "key"), "key")
    state = state_of(request)
    if not _is_local(request, state):
        raise Refusal(
            403,
            "not_local",
            "Only a browser on the machine that serves the gallery can show files there, and only "
            "if the server listens on a loopback address.",
        )
    if not _has_desktop():
        raise Refusal(501, "no_desktop", "This machine has no desktop to show files on.")

    def work() -> None:
        path = os.fsdecode(file_of(item_of(state.gallery, key)).path)
        if not os.path.lexists(path):
            raise Refusal(404, "no_image", "The item's file is gone.")
        # On Windows explorer returns 1 although it worked.
        if click.launch(path, locate=True) != 0 and sys.platform != "win32":
            raise Refusal(501, "no_desktop", "The file manager of this machine did not start.")

    await state.run_reading(work)
    return Answer({"key": key})


def _is_local(request: Request, state: ServerState) -> bool:
    if not state.is_local or request.client is None:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _has_desktop() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    has_screen = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_screen and shutil.which("xdg-open") is not None
