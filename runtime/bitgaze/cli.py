"""The `bitgaze` command: index a folder, search it, look at a gallery, a model, an installation.

Parses; what a command does is in commands.py.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bitgaze import commands
from bitgaze.errors import BitgazeError, GalleryCorrupt
from bitgaze.terminal import warn

STOPPED, INTERRUPTED, PIPE_CLOSED = 2, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done; 1 done with some inputs refused (each named on stderr), or verify found damage or
        other codes, repair lost something, doctor found something wrong; 2 a usage error or one
        that stopped the work; 130 interrupted;
        141 when the reader of stdout has gone.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 (for as long as the process lives)
    if sys.stdout is None:
        warn("stdout is closed")
        return STOPPED
    for stream in (sys.stdout, sys.stderr):
        # A file name must not end the program on a terminal that lacks its letters.
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = parser().parse_args(arguments)
    try:
        result: int = options.run(options)
        return result
    except BrokenPipeError:
        return PIPE_CLOSED
    except OSError as error:
        where = "" if error.filename is None else f"{error.filename}: "
        warn(f"{where}{error.strerror}")
        return STOPPED
    except (BitgazeError, ValueError) as error:
        is_worth_it = isinstance(error, GalleryCorrupt) and options.run is not commands.repair
        remedy = "; `bitgaze repair NEW -g FILE` saves what can be saved" if is_worth_it else ""
        warn(f"{error}{remedy}")
        return STOPPED
    except KeyboardInterrupt as error:
        warn(f"interrupted: {error}" if error.args else "interrupted")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """Of all commands; `parse_args` gives options with `run`, the function in commands.py."""
    from bitgaze import __version__

    top = argparse.ArgumentParser(
        prog="bitgaze", description="Find images that look like an image, on this device."
    )
    top.add_argument("--version", action="version", version=f"bitgaze {__version__}")
    subparsers = top.add_subparsers(required=True, metavar="COMMAND")

    def command(run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        text = run.__doc__
        sub = subparsers.add_parser(run.__name__, help=text, description=text)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print one JSON document")
        return sub

    def with_gallery(sub: argparse.ArgumentParser) -> argparse.ArgumentParser:
        sub.add_argument(
            "-g",
            "--gallery",
            type=_gallery_path,
            metavar="FILE",
            default=os.environ.get("BITGAZE_GALLERY") or "gallery.bitgaze",
            help="the gallery (default: $BITGAZE_GALLERY, then ./gallery.bitgaze)",
        )
        return sub

    def with_model(
        sub: argparse.ArgumentParser, model: argparse._ActionsContainer | None = None
    ) -> None:
        (model or sub).add_argument(
            "-m", "--model", metavar="FILE", help="a model of your own (default: the built-in one)"
        )
        sub.add_argument(
            "--provider",
            action="append",
            metavar="NAME",
            help="what runs the model: an onnxruntime execution provider such as cuda (again for a "
            'second choice), "auto", or a device policy such as prefer_npu (default: cpu)',
        )

    index = with_gallery(command(commands.index))
    _add_choices(index)
    with_model(index)
    search = with_gallery(command(commands.search))
    search.add_argument("image", metavar="IMAGE", help="a picture file")
    search.add_argument("-k", type=int, default=10, help="at most so many hits (%(default)s)")
    search.add_argument("--radius", type=int, help="leave out hits farther than this many bits")
    search.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only where metadata fulfil this: album=2024, year>=2020, name~img%%, "
        'tag=["a", "b"] (one of them), a!=1; @key is the picture\'s path; again for more',
    )
    search.add_argument(
        "--ranking",
        choices=("hamming", "asymmetric"),
        default="hamming",
        help="order by bits that differ (%(default)s), or by how much each of them says",
    )
    search.add_argument("--html", metavar="OUT", type=Path, help="also write a page to look at")
    with_model(search)
    explain = with_gallery(command(commands.explain))
    explain.add_argument("image", metavar="IMAGE", help="the picture that was searched for")
    explain.add_argument("key", metavar="HIT", help="a picture of the gallery, as search prints it")
    explain.add_argument(
        "-o",
        "--out",
        metavar="PNG",
        type=Path,
        default=Path("why.png"),
        help="the drawing (%(default)s)",
    )
    with_model(explain)
    duplicates = with_gallery(command(commands.duplicates))
    duplicates.add_argument(
        "--radius", type=int, help="how many bits may differ (default: a twelfth of all)"
    )
    duplicates.add_argument("--html", metavar="OUT", type=Path, help="also write a page to look at")
    adapt = with_gallery(command(commands.adapt))
    adapt.add_argument("--reset", action="store_true", help="undo it: the model's own codes")
    with_model(adapt)
    with_model(_with_address(with_gallery(command(commands.serve))))
    with_gallery(command(commands.info))
    verify = command(commands.verify)
    what = verify.add_mutually_exclusive_group()
    what.add_argument("-g", "--gallery", type=_gallery_path, metavar="FILE", help="a gallery")
    with_model(verify, what)
    repair = with_gallery(command(commands.repair))
    repair.add_argument("out", metavar="NEW", help="the new gallery; must not exist")
    with_model(repair)
    backup = with_gallery(command(commands.backup))
    backup.add_argument("out", metavar="NEW", help="the copy; must not exist")
    with_gallery(command(commands.compact))
    command(commands.doctor)
    return top


def _add_choices(index: argparse.ArgumentParser) -> None:
    """What is to be indexed, and how."""
    index.add_argument(
        "folders", metavar="DIR", nargs="+", help="a folder; what is below it counts, too"
    )
    for choice, what in (("include", "take only"), ("exclude", "leave out")):
        index.add_argument(
            f"--{choice}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f'{what} pictures that match, such as "*.png", "thumbs" (a folder anywhere) or '
            '"2024/*" (below DIR); again for another pattern',
        )
    index.add_argument(
        "--set",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="give new pictures this metadata; VALUE is JSON, or else text; again for another",
    )
    index.add_argument(
        "--dry-run", action="store_true", help="say what would be done, and write nothing"
    )
    index.add_argument(
        "--allow-empty", action="store_true", help="if DIR holds no picture, forget all from there"
    )


def _with_address(serve: argparse.ArgumentParser) -> argparse.ArgumentParser:
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (%(default)s); with one that others can reach, 0.0.0.0 for all "
        "of this machine's, the page asks for a token",
    )
    serve.add_argument("--port", type=int, default=8642, help="%(default)s; 0 for any that is free")
    serve.add_argument(
        "--token",
        help="what to ask for, at least 16 characters (default: $BITGAZE_TOKEN, or else a new one "
        "where one is needed)",
    )
    return serve


def _gallery_path(text: str) -> str:
    try:
        Path(text).expanduser()
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: no such user") from error
    return text


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE, such as album=Rome")
    return name, commands.typed_value(value)


if __name__ == "__main__":
    sys.exit(main())
