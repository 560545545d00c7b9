"""`bitgaze search`, `explain`, `duplicates` and `distinct`: find what looks alike, and see why."""

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitgaze.cli.options import (
    OK,
    SOME_FAILED,
    Commands,
    add_command,
    add_decoding,
    add_gallery,
    add_model,
    cannot_write,
    check_kernel,
    encoder_for,
    quiet_pillow,
    typed_value,
    write_text,
)
from bitgaze.cli.terminal import note, progress, say, warn
from bitgaze.errors import BitgazeError, ImageError, WordError

if TYPE_CHECKING:
    from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup
    from bitgaze.gallery.gallery import Gallery
    from bitgaze.gallery.hits import Hit


def add_to(commands: Commands) -> None:
    """Add the commands."""
    _add_search(commands)
    _add_explain(commands)
    _add_duplicates(commands)
    _add_distinct(commands)


def _add_search(commands: Commands) -> None:
    parser = add_command(commands, search)
    add_gallery(parser)
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="*",
        help='an image file; "-" for a list of them on stdin; or, if there is no such file, words '
        'for what images show, such as dog, "fire engine" or "dog, cat" (either)',
    )
    parser.add_argument(
        "--words", action="store_true", help="take IMAGE as words, even if there is such a file"
    )
    parser.add_argument(
        "--from0",
        action="store_true",
        help="read a list of image files from stdin, each followed by a NUL, as of `find -print0`",
    )
    parser.add_argument(
        "-0",
        "--print0",
        action="store_true",
        help="print only the hits, each followed by a NUL, for `xargs -0`",
    )
    parser.add_argument(
        "--exclude-self", action="store_true", help="leave out the item of IMAGE itself"
    )
    parser.add_argument(
        "-k", type=int, default=10, help="maximum number of hits (default: %(default)s)"
    )
    parser.add_argument(
        "--radius", type=int, metavar="BITS", help="maximum distance of a hit (default: any)"
    )
    parser.add_argument(
        "--unfold",
        action="store_true",
        help="show copies of a hit as hits of their own; else each hit says how many there are. "
        "--json and --print0 always have all",
    )
    _add_where(parser)
    parser.add_argument(
        "--ranking",
        choices=("hamming", "asymmetric"),
        default="hamming",
        help="rank hits by the number of bits that differ (hamming, the default), or weight each "
        "bit by how certain it is in the query (asymmetric)",
    )
    parser.add_argument(
        "--region",
        type=_box,
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="search for what is in this part of IMAGE; each from 0 to 1 of its width or height, "
        "such as 0.2,0.1,0.7,0.6",
    )
    _add_html(parser)
    add_model(parser)


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only images whose metadata match: album=2024, year>=2020, name~img%%, "
        'tag=["a", "b"] (either), a!=1; or what the camera wrote: date>=2024-05, camera~%%Pixel%%, '
        "lens, latitude, longitude, width, height, format; @key is the path of the image; may be "
        "repeated",
    )


def _box(text: str) -> tuple[float, ...]:
    try:
        edges = tuple(map(float, text.split(",")))
    except ValueError:
        edges = ()
    if len(edges) != 4 or not (0 <= edges[0] < edges[2] <= 1 and 0 <= edges[1] < edges[3] <= 1):
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected LEFT,TOP,RIGHT,BOTTOM from 0 to 1, such as 0.2,0.1,0.7,0.6"
        )
    return edges


def search(options: argparse.Namespace) -> int:
    """Find the images that look like a given one, or that show what words name."""
    from bitgaze.gallery.gallery import Gallery

    images = _queries(options)
    if options.print0 and options.json:
        raise BitgazeError("--print0 and --json cannot be combined")
    if options.html and len(images) > 1:
        raise BitgazeError(f"--html shows one search, but there are {len(images)} images")
    check_kernel()
    quiet_pillow()
    encoder = encoder_for(options)
    searches: list[dict[str, Any]] = []
    is_list = options.from0 or "-" in options.images
    if options.words or (not is_list and all(map(_are_words, images))):
        with Gallery(options.gallery, encoder=encoder, create=False) as gallery:
            return _search_words(options, gallery, " ".join(images))
    with Gallery(options.gallery, encoder=encoder, create=False) as gallery:
        for image in images:
            hits = _hits(gallery, image, options, is_only=len(images) == 1)
            if hits is None:
                continue
            searches.append({"query": image, "hits": [_hit_to_json(hit) for hit in hits]})
            if options.html:
                from bitgaze.cli.page import results_page

                name = Path(options.gallery).name
                limit = _unrelated_from(gallery, options)
                page = results_page(gallery.encoder, image, hits, name, options.region, limit)
                write_text(options.html, page)
            if options.print0:
                _print0([hit.path for hit in hits])
            elif not options.json:
                if len(images) > 1:
                    say(*([""] if len(searches) > 1 else []), f"{image}:")
                _say_hits(gallery, hits, options)
    if options.json and len(images) == 1:
        found = {"query": images[0], "gallery": options.gallery, "hits": searches[0]["hits"]}
        say(json.dumps(found))
    elif options.json:
        say(json.dumps({"gallery": options.gallery, "searches": searches}))
    else:
        _note_page(options.html)
    return OK if len(searches) == len(images) else SOME_FAILED


def _queries(options: argparse.Namespace) -> list[str]:
    """The images to search for: arguments, and the list on stdin where one is asked for."""
    images = [image for image in options.images if image != "-"]
    if options.from0 or "-" in options.images:
        text = os.fsdecode(sys.stdin.buffer.read())
        images += filter(None, text.split("\0") if options.from0 else text.splitlines())
    if not images:
        raise BitgazeError("no image to search for; name one, or - for a list on stdin")
    return images


def _hits(
    gallery: "Gallery", image: str, options: argparse.Namespace, *, is_only: bool
) -> "list[Hit] | None":
    """The hits of an image; None, after a warning, if it is one of several and cannot be read."""
    try:
        # A Path: on the command line, a name is always a file, never a key.
        return gallery.search(
            Path(image),
            options.k,
            radius=options.radius,
            where=_where(options.where),
            ranking=options.ranking,
            region=options.region,
            exclude_self=options.exclude_self,
            fold=not (options.unfold or options.json or options.print0),
        )
    except ImageError as error:
        if is_only:
            raise
        warn(str(error))
        return None


def _hit_to_json(hit: "Hit") -> dict[str, Any]:
    """A hit of a search that folds no copies."""
    return {name: value for name, value in asdict(hit).items() if name != "alike"}


def _say_hits(gallery: "Gallery", hits: "Sequence[Hit]", options: argparse.Namespace) -> None:
    from bitgaze.gallery.hits import UNRELATED

    columns = [[f"{words} {chance:>4}" for words, chance in hit.chances.items()] for hit in hits]
    widths = [max(map(len, column)) for column in zip_longest(*columns, fillvalue="")]
    limit, is_related = _unrelated_from(gallery, options), True
    for hit, texts in zip(hits, columns, strict=True):
        if is_related and limit is not None and hit.distance > limit and not hit.is_copy:
            say(f"{UNRELATED}:")
            is_related = False
        padded = [f"  {t:<{w}}" for t, w in zip_longest(texts, widths, fillvalue="")]
        distance = f"{hit.distance:5.1f}" if gallery.looks > 0 else f"{hit.distance:4d}"
        alike = f"  (+{len(hit.alike)} alike)" if hit.alike else ""
        say(f"{distance}{''.join(padded)}  {hit.key}{alike}")
    if not len(gallery):
        _warn_empty(options.gallery)
    elif not hits:
        warn("nothing found")


def _unrelated_from(gallery: "Gallery", options: argparse.Namespace) -> int | None:
    """The distance beyond which hits are probably unrelated; None if they do not go by that."""
    from bitgaze.gallery.hits import unrelated_from

    if options.ranking != "hamming" or options.region is not None:
        return None
    return unrelated_from(gallery.calibration)


def _are_words(text: str) -> bool:
    """Whether a text can only be words: no file has the name, and it is not spelled like one."""
    return not (os.path.lexists(text) or Path(text).suffix or set(text) & {"/", os.sep})


def _search_words(options: argparse.Namespace, gallery: "Gallery", words: str) -> int:
    from bitgaze.gallery.hits import percent

    for name in ("radius", "region", "html"):
        if getattr(options, name) is not None:
            raise BitgazeError(f"--{name} goes with an image, and {words!r} is no file")
    for name, is_given in (
        ("ranking", options.ranking != "hamming"),
        ("exclude-self", options.exclude_self),
    ):
        if is_given:
            raise BitgazeError(f"--{name} goes with an image, and {words!r} is no file")
    try:
        hits = gallery.search_words(words, options.k, where=_where(options.where))
    except WordError as error:
        if options.words:
            raise
        raise WordError(f"{words}: no such file; as words: {error}") from error
    if options.json:
        found = [asdict(hit) for hit in hits]
        say(json.dumps({"words": words, "gallery": options.gallery, "hits": found}))
        return OK
    note(_said(gallery, options, words))
    if options.print0:
        _print0([hit.path for hit in hits])
        return OK
    for hit in hits:
        say(f"{percent(hit.probability):>4}  {hit.key}")
    if not len(gallery):
        _warn_empty(options.gallery)
    elif not hits:
        warn("nothing found")
    return OK


def _said(gallery: "Gallery", options: argparse.Namespace, words: str) -> str:
    """What is searched for, and what stands for a word that is no class."""
    start = "" if options.words else f"no file {words!r}: "
    texts = [f"{start}images that show {words!r}"]
    meanings = gallery.vocabulary.meanings(words)
    for meaning in {meaning.word: meaning for every in meanings for meaning in every}.values():
        if meaning.stand_in:
            texts.append(
                f"{meaning.word!r} is no class of the model, {meaning.stand_in!r} stands for it"
            )
    return "; ".join(texts)


def _warn_empty(gallery: str) -> None:
    warn(f"{gallery} contains no images; add some with `bitgaze index DIR -g {gallery}`")


def _where(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The conditions of --where as the `where` of `Gallery.search`."""
    where: dict[str, dict[str, Any]] = {}
    for text in texts:
        parts = re.fullmatch(r"([^<>=!~]+)(<=|>=|!=|=|<|>|~)(|[^<>=~].*)", text, re.DOTALL)
        if parts is None:
            raise BitgazeError(
                f"--where {text}: expected FIELD=VALUE; operators are = != < <= > >= and ~ (like)"
            )
        sign, typed = parts[2], parts[3]
        value = typed_value(typed)
        if re.fullmatch(r"date\s*", parts[1]) and re.fullmatch(r"\d{4}", typed):
            value = typed  # a year, compared with dates
        operator = sign
        if sign == "=":
            operator, value = "in", value if isinstance(value, list) else [value]
        elif sign == "~":
            operator, value = "like", typed
        conditions = where.setdefault(parts[1].strip(), {})
        if operator in conditions:
            raise BitgazeError(
                f"--where {text}: a second {sign} for this field; to match any of several values, "
                """use FIELD='["a", "b"]'"""
            )
        conditions[operator] = value
    return where


def _add_explain(commands: Commands) -> None:
    parser = add_command(commands, explain)
    add_gallery(parser)
    parser.add_argument("image", metavar="IMAGE", help="the query image")
    parser.add_argument(
        "key", metavar="HIT", help="an image of the gallery, as `bitgaze search` prints it"
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="PNG",
        type=Path,
        default=Path("why.png"),
        help="where to write the drawing (default: %(default)s)",
    )
    add_model(parser)


def explain(options: argparse.Namespace) -> int:
    """Draw why an image is a hit: attention over both images, and the bits that differ."""
    from bitgaze.gallery.gallery import Gallery

    quiet_pillow()
    with Gallery(options.gallery, encoder=encoder_for(options), create=False) as gallery:
        key = _key(gallery, options.key)
        try:
            drawing = gallery.explain(Path(options.image), key)
        except KeyError as error:
            raise BitgazeError(
                f"{options.gallery} has no image {options.key}; use a path as printed by "
                "`bitgaze search`"
            ) from error
    try:
        drawing.save(options.out, "PNG")
    except OSError as error:
        raise cannot_write(options.out, error) from error
    if options.json:
        say(json.dumps({"query": options.image, "key": key, "drawing": str(options.out)}))
    else:
        say(str(options.out))
    return OK


def _key(gallery: "Gallery", text: str) -> str:
    """The key that a text of the command line means, most likely a relative path."""
    absolute = os.path.abspath(text)  # noqa: PTH100 (keeps links)
    key = absolute if Path(text).exists() else text
    if key in gallery:
        return key
    return text if key == absolute else absolute


def _add_duplicates(commands: Commands) -> None:
    parser = add_command(commands, duplicates)
    add_gallery(parser)
    parser.add_argument(
        "--look-alikes",
        action="store_true",
        help="also images that only look alike, to be looked at: not only different photos of one "
        "thing, but different pages of text, too",
    )
    parser.add_argument(
        "--radius",
        type=int,
        metavar="BITS",
        help="maximum number of bits in which look-alikes differ (default: a twelfth of the code); "
        "implies --look-alikes",
    )
    parser.add_argument(
        "--reference",
        metavar="DIR",
        type=Path,
        help="only what is in this folder and elsewhere too; the copy to keep is the one in it",
    )
    parser.add_argument(
        "--rotated",
        action="store_true",
        help="also images that are mirrored or turned by a quarter, to be looked at: an arrow to "
        "the left is one to the right, mirrored",
    )
    _add_where(parser)
    parser.add_argument(
        "--print0",
        action="store_true",
        help="print nothing but the paths of the files that need not be kept, each followed by a "
        "NUL byte, for `xargs -0`; not with look-alikes",
    )
    _add_html(parser)
    add_decoding(parser)


def duplicates(options: argparse.Namespace) -> int:
    """Show groups of images that are the same, the best copy first; delete nothing."""
    from bitgaze.gallery.duplicates import default_radius
    from bitgaze.gallery.gallery import Gallery

    quiet_pillow()
    if options.print0 and options.json:
        raise BitgazeError("--print0 and --json cannot be combined")
    with Gallery(options.gallery, create=False) as gallery:
        radius = options.radius
        if radius is None and (options.look_alikes or not gallery.has_structure):
            radius = default_radius(gallery.bits)
        if options.print0 and radius is not None:
            raise BitgazeError(
                "--print0 is for files that are the same: look-alikes have to be looked at"
                if gallery.has_structure
                else f"--print0 is for files that are the same: {_no_structure(gallery)}"
            )
        with progress("comparing", "codes") as show:
            groups = gallery.duplicates(
                radius,
                where=_where(options.where),
                reference=options.reference,
                rotated=options.rotated,
                on_progress=show,
            )
        if not gallery.has_structure:
            note(f"{_no_structure(gallery)}: these groups look alike, and may not be the same")
    if options.html:
        from bitgaze.cli.page import duplicates_page

        write_text(options.html, duplicates_page(groups, radius, Path(options.gallery).name))
    if options.print0:
        _print0([other.path for group in groups for other in group.others])
    elif options.json:
        found = [asdict(group) for group in groups]
        say(json.dumps({"gallery": options.gallery, "radius": radius, "groups": found}))
    else:
        for group in groups:
            say(_member(group.best), *map(_member, group.others), "")
        say(_summary(groups, radius))
    _note_page(options.html)
    return OK


def _no_structure(gallery: "Gallery") -> str:
    if gallery.fingerprint is None:
        return (
            f"the codes of {gallery.path} are your own, which do not tell copies from look-alikes"
        )
    return (
        f"{gallery.path} was made by an older version, without the codes that tell copies from "
        "look-alikes; `bitgaze adapt` adds them, or index the images into a new gallery"
    )


def _print0(paths: Sequence[str | None]) -> None:
    """Print the paths of items that are made from files, each followed by a NUL."""
    sys.stdout.flush()
    named = (os.fsencode(path) + b"\0" for path in paths if path is not None)
    sys.stdout.buffer.write(b"".join(named))
    sys.stdout.buffer.flush()


def _summary(groups: "Sequence[DuplicateGroup]", radius: int | None) -> str:
    within = "" if radius is None else f" (look-alikes within {radius} bits)"
    if not groups:
        return f"no duplicates{within}"
    tiers = [other.tier for group in groups for other in group.others]
    words = {"identical": "identical files", "copy": "copies", "look-alike": "look-alikes"}
    counts = [f"{name}: {tiers.count(tier)}" for tier, name in words.items() if tier in tiers]
    return f"groups: {len(groups)}, {', '.join(counts)}{within}"


def _member(member: "Duplicate") -> str:
    size = "" if member.size is None else f"{member.size[0]} x {member.size[1]}"
    file_bytes = "no file" if member.file_bytes is None else f"{member.file_bytes:,}"
    mark = member.tier or "keep"
    return f"{mark:10} {member.distance:4d}  {size:>13}  {file_bytes:>13}  {member.key}"


def _add_distinct(commands: Commands) -> None:
    parser = add_command(commands, distinct)
    add_gallery(parser)
    parser.add_argument("one", metavar="A", help="an image, as `bitgaze duplicates` prints it")
    parser.add_argument("other", metavar="B", help="another image")
    parser.add_argument("--undo", action="store_true", help="forget that they are distinct")


def distinct(options: argparse.Namespace) -> int:
    """Remember that two images are not duplicates, so that `duplicates` keeps them apart."""
    from bitgaze.gallery.gallery import Gallery

    with Gallery(options.gallery, create=False) as gallery:
        keys = [_key(gallery, text) for text in (options.one, options.other)]
        for key, text in zip(keys, (options.one, options.other), strict=True):
            if key not in gallery:
                raise BitgazeError(
                    f"{options.gallery} has no image {text}; use a path as printed by "
                    "`bitgaze duplicates`"
                )
        gallery.set_distinct(*keys, are_distinct=not options.undo)
    if options.json:
        say(json.dumps({"images": keys, "distinct": not options.undo}))
    else:
        say(f"{'no longer distinct' if options.undo else 'distinct'}: {keys[0]} and {keys[1]}")
    return OK


def _add_html(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--html", metavar="OUT", type=Path, help="also write an HTML page")


def _note_page(page: Path | None) -> None:
    if page is not None:
        note(f"page: {page.resolve()}")
