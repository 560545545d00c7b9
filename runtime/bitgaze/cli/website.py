"""`bitgaze export-web`: a gallery as a web page that searches in the browser."""

import argparse
import json
from pathlib import Path

from bitgaze.cli.options import (
    OK,
    SOME_FAILED,
    Commands,
    add_command,
    add_gallery,
    add_model,
    encoder_for,
    quiet_pillow,
)
from bitgaze.cli.terminal import images, progress, say, warn

_SIDE_PX = 256


def add_to(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, export_web)
    parser.add_argument(
        "folder", metavar="DIR", help="the folder to write: new, empty, or of an earlier export"
    )
    add_gallery(parser)
    parser.add_argument(
        "--thumbnail",
        type=int,
        default=_SIDE_PX,
        metavar="PX",
        help="longest side of the images that the page shows, or 0 to leave them out (default: "
        "%(default)s)",
    )
    add_model(parser)


def export_web(options: argparse.Namespace) -> int:
    """Write a web page that searches the gallery in the browser, even offline."""
    from bitgaze.gallery.gallery import Gallery
    from bitgaze.gallery.website import export_web as export

    quiet_pillow()
    with (
        Gallery(options.gallery, encoder=encoder_for(options), create=False) as gallery,
        progress("exporting", "images") as show,
    ):
        site = export(gallery, options.folder, thumbnail_px=options.thumbnail, on_progress=show)
    for key, reason in site.failed.items():
        warn(f"{key}: {reason}")
    if options.json:
        facts = {"folder": options.folder, "items": site.items, "bytes": site.bytes}
        say(json.dumps({**facts, "failed": site.failed}))
    else:
        say(
            f"{options.folder}: {images(site.items)}, {site.bytes / 1e6:,.0f} MB",
            f"look at it: python3 -m http.server -d {Path(options.folder)} 8000, then open "
            "http://localhost:8000",
        )
        if site.failed:
            say(f"{images(len(site.failed))} without a thumbnail, since their files are not there")
    return SOME_FAILED if site.failed else OK
