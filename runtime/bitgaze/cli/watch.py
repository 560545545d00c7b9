"""`bitgaze watch`: keep a gallery up to date as files change."""

import argparse
from pathlib import Path
from typing import Any

from bitgaze.cli.index import add_index_options, index, repeat_last
from bitgaze.cli.options import OK, Commands, add_command
from bitgaze.cli.terminal import note, warn
from bitgaze.errors import BitgazeError

_FIRST_MS = 500  # after which the first index begins
_DEBOUNCE_MS = 1600  # what programs and cameras write within this time is one change


def add_to(commands: Commands) -> None:
    """Add the command."""
    add_index_options(add_command(commands, watch))


def watch(options: argparse.Namespace) -> int:
    """Index folders of images, and again whenever a file in them changes; Ctrl-C ends it."""
    try:
        import watchfiles
    except ImportError as error:
        raise BitgazeError("watch requires watchfiles: pip install 'bitgaze[watch]'") from error

    repeat_last(options)
    status = OK
    folders = [folder for folder in options.folders if Path(folder).expanduser().is_dir()]
    note(f"watching {', '.join(map(str, folders))}; Ctrl-C ends it")
    try:
        is_first = True
        # Watching begins before the first index: no file that comes meanwhile is missed.
        for changes in watchfiles.watch(
            *[Path(folder).expanduser() for folder in folders],
            watch_filter=_may_be_image,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_FIRST_MS,
            yield_on_timeout=True,
        ):
            if not (changes or is_first):
                continue
            is_first = False
            try:
                status = index(options)
            except BitgazeError as error:  # such as a gallery that is locked: at the next change
                warn(str(error))
    except KeyboardInterrupt:
        note("stopped watching")
    return status


def _may_be_image(_: Any, path: str) -> bool:
    """Whether a file is an image by its name, or may be a folder."""
    from bitgaze.encoding.formats import SUFFIXES

    suffix = Path(path).suffix.lower()
    return suffix in SUFFIXES or suffix == "" or Path(path).is_dir()
