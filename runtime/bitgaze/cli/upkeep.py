"""`bitgaze info`, `adapt`, `verify`, `repair`, `backup`, `compact` and `export-flat`: upkeep."""

import argparse
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from bitgaze.cli.options import (
    OK,
    SOME_FAILED,
    Commands,
    add_command,
    add_gallery,
    add_model,
    encoder_for,
    gallery_path,
    quiet_pillow,
)
from bitgaze.cli.terminal import images, note, progress, say, warn
from bitgaze.errors import BitgazeError, GalleryCorrupt

if TYPE_CHECKING:
    from bitgaze.gallery.gallery import Gallery
    from bitgaze.gallery.remembered import Sources


def add_to(commands: Commands) -> None:
    """Add the commands."""
    add_gallery(add_command(commands, info))

    parser = add_command(commands, adapt)
    add_gallery(parser)
    parser.add_argument("--reset", action="store_true", help="go back to the model's own codes")
    add_model(parser)

    parser = add_command(commands, verify)
    parser.add_argument(
        "-g", "--gallery", type=gallery_path, metavar="FILE", help="the gallery to check"
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="with -g: also encode the images again, and find codes that are not their files'",
    )
    add_model(parser)

    parser = add_command(commands, repair)
    add_gallery(parser)
    parser.add_argument("out", metavar="NEW", help="the new gallery; must not exist yet")
    add_model(parser)

    parser = add_command(commands, backup)
    add_gallery(parser)
    parser.add_argument("out", metavar="NEW", help="the copy; must not exist yet")

    add_gallery(add_command(commands, compact))

    parser = add_command(commands, export_flat)
    add_gallery(parser)
    parser.add_argument("out", metavar="OUT", help="the flat file; replaces an older one")


def info(options: argparse.Namespace) -> int:
    """Print the size, the model and other facts of a gallery."""
    from bitgaze.gallery.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        facts = {
            "gallery": str(gallery.path),
            "items": len(gallery),
            "bits": gallery.bits,
            "looks": gallery.looks,
            "model": gallery.model_name,
            "model_file": str(gallery.model_file) if gallery.fingerprint else None,
            "formats": _formats(gallery),
            "fingerprint": gallery.fingerprint,
            "adaptation": gallery.adaptation,
            "calibration": _calibrated_by(gallery),
            "file_bytes": gallery.path.stat().st_size,
        }
        sources = gallery.sources
    if options.json:
        say(json.dumps({**facts, "sources": sources and asdict(sources)}))
    else:
        say(*[f"{name:12} {'none' if value is None else value}" for name, value in facts.items()])
        if sources is not None:
            say(*_described(sources))
    return OK


def _described(sources: "Sources") -> Iterator[str]:
    for folder in sources.folders:
        yield f"{'folder':12} {folder}"
    for pattern in sources.include:
        yield f"{'include':12} {pattern}"
    for pattern in sources.exclude:
        yield f"{'exclude':12} {pattern}"
    if sources.all_folders:
        yield f"{'all folders':12} yes"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(sources.synced_at))
    yield f"{'last index':12} {when}"


def _formats(gallery: "Gallery") -> str | None:
    """How many keys end in each extension, the most frequent first."""
    counts = Counter(Path(key).suffix.lower() or "without extension" for key in gallery)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common()) or None


def _calibrated_by(gallery: "Gallery") -> str | None:
    if gallery.calibration is None:
        return None
    return "model" if gallery.adaptation is None else "gallery"


def adapt(options: argparse.Namespace) -> int:
    """Recompute a gallery's codes, adapted to its images."""
    from bitgaze.gallery.gallery import Gallery

    quiet_pillow()
    started = time.perf_counter()
    with Gallery(options.gallery, encoder=encoder_for(options), create=False) as gallery:
        with progress("encoding", "images") as show:
            before = gallery.adaptation
            try:
                count = gallery.adapt(reset=options.reset, on_progress=show)
            except KeyboardInterrupt as error:
                is_done = gallery.adaptation != before  # interrupted after the commit
                raise KeyboardInterrupt(
                    "all codes were updated" if is_done else "nothing was changed"
                ) from error
        adaptation = gallery.adaptation
    seconds = time.perf_counter() - started
    if options.json:
        facts = {"gallery": options.gallery, "items": count, "adaptation": adaptation}
        say(json.dumps(facts))
    else:
        codes = "the model's own codes" if adaptation is None else f"adapted: {adaptation[:12]}"
        say(f"{count} re-encoded, in {seconds:.1f} s", f"{options.gallery}: {codes}")
    return OK


def verify(options: argparse.Namespace) -> int:
    """Check a gallery for damage, or a model against its golden examples."""
    if options.gallery is not None:
        if (options.provider or options.model) and not options.images:
            raise BitgazeError(
                "-m and --provider apply to a model; verifying a gallery runs one only with "
                "--images"
            )
        return _verify_gallery(options)
    if options.images:
        raise BitgazeError("--images needs the gallery, -g FILE")
    from bitgaze.encoding.encoder import Encoder
    from bitgaze.encoding.verification import verify

    found = verify(encoder_for(options) or Encoder())
    if options.json:
        say(json.dumps({**asdict(found), "equal": found.is_equal}))
    else:
        pairs = zip(found.flipped, found.flipped_stable, strict=True)
        say(
            f"{found.model} ({found.fingerprint[:12]}), {found.runs_on}",
            *(
                f"example {i}: {flipped} of {found.bits} bits differ, {stable} of them stable"
                for i, (flipped, stable) in enumerate(pairs)
            ),
            "equal: codes computed here can be compared with others"
            if found.is_equal
            else "not equal: do not mix codes computed here with those of other machines",
        )
    return OK if found.is_equal else SOME_FAILED


def _verify_gallery(options: argparse.Namespace) -> int:
    from bitgaze.gallery.flat.header import is_flat
    from bitgaze.gallery.maintenance import verify_gallery

    if is_flat(Path(options.gallery).expanduser()):
        return _verify_flat(options)
    quiet_pillow()
    encoder = encoder_for(options) if options.images else None
    found = verify_gallery(options.gallery, images=options.images, encoder=encoder)
    if options.json:
        facts = {"gallery": options.gallery, **asdict(found), "sound": found.is_sound}
        say(json.dumps(facts))
    elif found.is_sound:
        say(f"sound: all {found.items} items and codes match their checksums")
    elif found.images:
        say(*(f"wrong: {problem}" for problem in found.problems))
    else:
        say(*(f"damaged: {problem}" for problem in found.problems))
        say(f"recover it with `bitgaze repair NEW -g {options.gallery}`")
    if options.images and not options.json:
        say(
            f"{found.images} codes compared with their files; {found.not_compared} not, as the "
            "file is missing, unreadable, or changed, or the image was added by hand"
        )
    return OK if found.is_sound else SOME_FAILED


def _verify_flat(options: argparse.Namespace) -> int:
    from bitgaze.gallery.flat.gallery import FlatGallery

    if options.images:
        raise BitgazeError(f"{options.gallery}: --images needs a gallery, and this is a flat file")
    try:
        with FlatGallery(options.gallery) as flat:
            items, problems = len(flat), flat.verify()
    except GalleryCorrupt as error:
        items, problems = 0, [str(error)]
    if options.json:
        facts = {"gallery": options.gallery, "items": items, "problems": problems}
        say(json.dumps({**facts, "sound": not problems}))
    elif problems:
        say(*(f"damaged: {problem}" for problem in problems))
    else:
        say(f"sound: all {items} items and codes match their checksums")
    return SOME_FAILED if problems else OK


def repair(options: argparse.Namespace) -> int:
    """Recover a damaged gallery into a new file."""
    from bitgaze.gallery.maintenance import repair as repair_gallery

    quiet_pillow()
    report = repair_gallery(options.gallery, options.out, encoder=encoder_for(options))
    status = SOME_FAILED if report.lost or report.unreadable or report.reduced else OK
    if options.json:
        say(json.dumps({"gallery": options.out, **asdict(report)}))
        return status
    for key, reason in report.lost.items():
        warn(f"lost {key}: {reason}")
    for key in report.reduced:
        warn(f"kept {key} without its looks or structural code, which were damaged")
    say(
        f"{report.kept} kept, {len(report.encoded)} re-encoded, {len(report.lost)} lost, "
        f"{report.unreadable} unreadable",
        f"{options.out}: {images(report.kept + len({*report.encoded, *report.reduced}))}",
    )
    if report.unreadable:
        note("`bitgaze index` restores items whose images are still in their folder")
    return status


def backup(options: argparse.Namespace) -> int:
    """Copy a gallery to a new file, even while it is in use."""
    from bitgaze.gallery.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        gallery.backup(options.out)
    file_bytes = Path(options.out).stat().st_size
    if options.json:
        say(json.dumps({"gallery": options.out, "file_bytes": file_bytes}))
    else:
        say(f"{options.out}: {file_bytes:,} bytes")
    return OK


def compact(options: argparse.Namespace) -> int:
    """Free the disk space of removed images."""
    from bitgaze.gallery.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        freed = gallery.compact()
    if options.json:
        say(json.dumps({"gallery": options.gallery, "freed_bytes": freed}))
    else:
        say(f"{freed:,} bytes freed")
    return OK


def export_flat(options: argparse.Namespace) -> int:
    """Write a snapshot to a flat file, which programs in C++ and other languages search."""
    from bitgaze.gallery.gallery import Gallery

    out = Path(options.out).expanduser()
    with (
        Gallery(options.gallery, create=False) as gallery,
        progress("exporting", "images") as show,
    ):
        count = gallery.export_flat(out, on_progress=show)
    file_bytes = out.stat().st_size
    if options.json:
        say(json.dumps({"flat_file": options.out, "items": count, "file_bytes": file_bytes}))
    else:
        say(f"{options.out}: {images(count)}, {file_bytes:,} bytes")
    return OK
