"""The entry point of `bitgaze`: parse the command line, turn errors into exit codes."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bitgaze.cli import completion, doctor, index, search, serve, transfer, upkeep, watch, website
from bitgaze.cli.options import OK, STOPPED
from bitgaze.cli.terminal import say, warn
from bitgaze.encoding.memory import limit
from bitgaze.errors import BitgazeError, GalleryCorrupt

INTERRUPTED, PIPE_CLOSED = 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0: done. 1: done, but some inputs were refused (stderr names each), `verify` found damage or
        different codes, `repair` lost something, or `doctor` found a problem. 2: a usage error, or
        an error that stopped the command. 130: interrupted. 141: the reader of stdout closed it.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (open until the process ends)
    if sys.stdout is None:
        warn("stdout is closed")
        return STOPPED
    for stream in (sys.stdout, sys.stderr):
        # A file name must not stop the program on a terminal that cannot show its characters.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    if getattr(options, "max_decoded_bytes", None) is not None:
        limit(options.max_decoded_bytes)
    try:
        result: int = options.run(options)
        return result
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        name = "" if error.filename is None else f"{error.filename}: "
        warn(f"{name}{error.strerror}")
        return STOPPED
    except (BitgazeError, ValueError) as error:
        is_repairable = isinstance(error, GalleryCorrupt) and options.run is not upkeep.repair
        remedy = "; recover it with `bitgaze repair NEW -g FILE`" if is_repairable else ""
        warn(f"{error}{remedy}")
        return STOPPED
    except KeyboardInterrupt as error:
        warn(f"interrupted: {error}" if error.args else "interrupted")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. Parsed options have the function of the command as `run`."""
    from bitgaze import __version__

    top = argparse.ArgumentParser(
        prog="bitgaze",
        description="On-device image search: find images that look like a given one.",
    )
    top.add_argument("--version", action="version", version=f"bitgaze {__version__}")

    def print_help(options: argparse.Namespace) -> int:
        say(top.format_help().rstrip())
        return OK

    top.set_defaults(run=print_help)
    commands = top.add_subparsers(metavar="COMMAND")
    for module in (index, watch, search, serve, upkeep, transfer, website, doctor):
        module.add_to(commands)
    completion.add_to(commands, top)
    return top
