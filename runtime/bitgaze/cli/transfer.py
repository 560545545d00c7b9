"""`bitgaze export` and `import`: a gallery to the files of another engine, and back."""

import argparse
import json

from bitgaze.cli.options import OK, Commands, add_command, add_gallery
from bitgaze.cli.terminal import images, progress, say
from bitgaze.interchange import ENGINES, Transfer, export_gallery, import_gallery


def add_to(commands: Commands) -> None:
    """Add the commands."""
    folders = ", ".join(engine for engine, is_folder in ENGINES.items() if is_folder)

    parser = add_command(commands, export)
    add_gallery(parser)
    parser.add_argument("--to", required=True, choices=ENGINES, help="the engine to write for.")
    parser.add_argument(
        "out", metavar="OUT", help=f"a new file; for {folders} a new folder; must not exist"
    )

    parser = add_command(commands, import_)
    add_gallery(parser)
    parser.add_argument(
        "--from", dest="engine", required=True, choices=ENGINES, help="the engine to read from."
    )
    parser.add_argument("source", metavar="IN", help="what to read: the engine's file or folder")


def export(options: argparse.Namespace) -> int:
    """Write a gallery for another engine, with all that `import` needs to restore it."""
    with progress("exporting", "images") as show:
        done = export_gallery(options.gallery, options.to, options.out, on_progress=show)
    return _report(options, options.out, done)


def import_(options: argparse.Namespace) -> int:
    """Write a new gallery (-g) from another engine's file, or from what `export` wrote."""
    with progress("importing", "images") as show:
        done = import_gallery(options.source, options.engine, options.gallery, on_progress=show)
    return _report(options, options.gallery, done)


def _report(options: argparse.Namespace, written: str, done: Transfer) -> int:
    if options.json:
        say(json.dumps({"written": written, "items": done.items, "notes": done.notes}))
    else:
        say(f"{written}: {images(done.items)}", *done.notes)
    return OK
