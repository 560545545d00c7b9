"""`bitgaze index` and `forget`: bring a gallery up to date with folders, or forget them."""

import argparse
import json
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bitgaze.cli.options import (
    OK,
    SOME_FAILED,
    Commands,
    add_command,
    add_gallery,
    add_model,
    encoder_for,
    quiet_pillow,
    typed_value,
)
from bitgaze.cli.terminal import images, progress, say, warn
from bitgaze.errors import BitgazeError

if TYPE_CHECKING:
    from bitgaze.gallery.gallery import Gallery
    from bitgaze.gallery.sync.report import SyncReport

_MAX_SKIPPED_SHOWN = 10


def add_to(commands: Commands) -> None:
    """Add the commands."""
    add_index_options(add_command(commands, index))
    _add_forget(commands)


def add_index_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `index`, which are those of `watch` too."""
    add_gallery(parser)
    parser.add_argument(
        "folders",
        metavar="DIR",
        nargs="*",
        help="a folder, searched recursively (default: those of the last run; its patterns stay, "
        "includes and excludes each unless others are given)",
    )
    for option, verb in (("include", "index only"), ("exclude", "leave out")):
        parser.add_argument(
            f"--{option}",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f'{verb} images that match, such as "*.png", "thumbs" (a folder anywhere) or '
            '"2024/*" (below DIR); may be repeated',
        )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_named_value,
        metavar="NAME=VALUE",
        help="metadata for new images; VALUE is JSON, or text if it is not; may be repeated",
    )
    parser.add_argument(
        "--looks",
        type=int,
        metavar="N",
        help="of a new gallery: at how many parts of each image the model looks again (default: "
        "what it was made for, 3 of bitgaze's own; with 0, indexing takes a quarter of the time)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would change; write nothing"
    )
    parser.add_argument(
        "--allow-empty",
        nargs="?",
        const=True,
        action="append",
        default=[],
        metavar="FOLDER",
        help="remove also items from FOLDER that may be on a disk that is away: of a folder that "
        "is gone from DIR, or has lost all its images and is empty, on another device, had more "
        "than 20, or holds fewer new ones; or of more than 20 that are more than half of those "
        "from DIR; may be repeated, and without FOLDER means all of them (write DIR first)",
    )
    parser.add_argument(
        "--all-folders",
        action="store_true",
        help="take thumbnails and bins of systems too, such as @eaDir, $RECYCLE.BIN and lost+found",
    )
    parser.add_argument(
        "--tolerant",
        action="store_true",
        help="take JPEG files whose end is missing, as far as they go",
    )
    add_model(parser)


def _add_forget(commands: Commands) -> None:
    parser = add_command(commands, forget)
    add_gallery(parser)
    parser.add_argument(
        "targets",
        metavar="FOLDER|PATTERN",
        nargs="+",
        help='a folder or image, which need not exist any more, or a pattern for names ("@eaDir*") '
        'or, with a "/", for the ends of paths ("2024/raw/*")',
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be removed; write nothing"
    )


def forget(options: argparse.Namespace) -> int:
    """Remove the images of a folder, or that match a pattern, from a gallery; files stay."""
    from bitgaze.gallery.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        keys = gallery.forget(*options.targets, dry_run=options.dry_run)
        size = len(gallery)
    if options.json:
        facts = {"gallery": options.gallery, "items": size, "dry_run": options.dry_run}
        say(json.dumps({**facts, "forgotten": keys}))
    else:
        if options.dry_run:
            say(*(f"forget  {key}" for key in keys), "dry run: nothing was written")
        say(f"{len(keys)} forgotten", f"{options.gallery}: {images(size)}")
    return OK if keys else SOME_FAILED


def _named_value(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE, such as album=Rome")
    return name, typed_value(value)


def index(options: argparse.Namespace) -> int:
    """Bring a gallery up to date with folders of images."""
    metadata: dict[str, Any] = {}
    for name, value in options.set:
        if name in metadata:
            raise ValueError(f"--set has {name!r} twice")
        metadata[name] = value
    repeat_last(options)
    quiet_pillow()
    started = time.perf_counter()
    with _gallery_to_index(options) as gallery, progress("indexing", "images") as show:
        try:
            report = gallery.sync(
                *options.folders,
                include=options.include,
                exclude=options.exclude,
                metadata=lambda path: metadata,
                dry_run=options.dry_run,
                allow_empty=True in options.allow_empty or options.allow_empty,
                all_folders=options.all_folders,
                tolerant=options.tolerant,
                on_progress=show,
            )
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(str(error) or "everything done so far is kept") from error
        size = len(gallery)
    seconds = time.perf_counter() - started
    _warn_of(report)
    status = SOME_FAILED if report.failed or report.missing else OK
    if options.json:
        facts = {"gallery": options.gallery, "items": size, "dry_run": options.dry_run}
        say(json.dumps({**facts, "seconds": round(seconds, 3), **asdict(report)}))
        return status
    if options.dry_run:
        say(
            *(f"add     {path}" for path in report.added),
            *(f"update  {path}" for path in report.updated),
            *(f"move    {old} -> {new}" for old, new in report.moved),
            *(f"remove  {path}" for path in report.removed),
            "dry run: nothing was written. Without --dry-run:",
        )
    say(
        f"{len(report.added)} added, {len(report.updated)} updated, {len(report.moved)} moved, "
        f"{len(report.removed)} removed, {report.unchanged} unchanged, "
        f"{len(report.failed)} refused, in {seconds:.1f} s",
    )
    if report.excluded:
        say(f"{report.excluded} left unchanged: hidden, or excluded by a pattern")
    if report.system_folders:
        say(f"{report.system_folders} system folders left out; --all-folders takes them")
    say(f"{options.gallery}: {images(size)}")
    return status


def _warn_of(report: "SyncReport") -> None:
    for path, reason in report.failed.items():
        warn(f"refused {path}: {reason}")
    for folder, count in report.missing.items():
        warn(
            f"kept {images(count)} of {folder}: gone from there (is a disk not mounted?); if you "
            f"deleted them, use --allow-empty {shlex.quote(folder)}"
        )
    if report.waiting:
        warn(
            f"{report.waiting} new {'image waits' if report.waiting == 1 else 'images wait'}: "
            "nothing is added to these folders until then"
        )
    for path, reason in islice(report.skipped.items(), _MAX_SKIPPED_SHOWN):
        warn(f"skipped {path}: {reason}")
    if len(report.skipped) > _MAX_SKIPPED_SHOWN:
        warn(f"skipped {len(report.skipped) - _MAX_SKIPPED_SHOWN} more; --json lists all")
    for line in _unread_lines(report.unread.values()):
        warn(line)


def _unread_lines(formats: Iterable[str]) -> Iterator[str]:
    """A line for each extra that would read some images, and one for those that nothing reads."""
    from bitgaze.encoding.formats import EXTRAS, advice

    counts = Counter(formats)
    for name in EXTRAS:
        if name in counts:
            count = counts.pop(name)
            yield f"{count} {name} {'image' if count == 1 else 'images'}: {advice(name)}"
    if counts:
        others = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())
        yield f"{others}: not read"


def repeat_last(options: argparse.Namespace) -> None:
    """Without folders, take those of the last run, and its patterns of each kind not given."""
    from bitgaze.gallery.gallery import Gallery

    if options.folders:
        return
    with Gallery(options.gallery, create=False) as gallery:
        sources = gallery.sources
    if sources is None or not sources.folders:
        raise BitgazeError(
            f"{options.gallery}: remembers no folders; name those to index: "
            f"`bitgaze index FOLDER -g {options.gallery}`"
        )
    options.folders = list(sources.folders)
    options.include = options.include or list(sources.include)
    options.exclude = options.exclude or list(sources.exclude)
    options.all_folders = options.all_folders or sources.all_folders


@contextmanager
def _gallery_to_index(options: argparse.Namespace) -> Iterator["Gallery"]:
    """The gallery. A dry run without one uses a temporary one, so that it creates none."""
    from bitgaze.gallery.gallery import Gallery
    from bitgaze.gallery.sync.folders import find_roots

    with ExitStack() as stack:
        path = options.gallery
        is_new = not Path(path).expanduser().exists()
        if is_new:
            find_roots(options.folders)  # a mistyped name must not leave an empty gallery behind
        if options.dry_run and is_new:
            path = Path(stack.enter_context(TemporaryDirectory()), "empty.bitgaze")
        encoder = encoder_for(options)
        yield stack.enter_context(Gallery(path, encoder=encoder, looks=options.looks))
