"""Self-contained HTML pages of search results and of duplicate groups.

Each page is one file with its images inside: it can be mailed, and opens without a network.
"""

import html
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote
from urllib.request import pathname2url

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.heatmap import data_uri, framed, overlay, thumbnail
from bitgaze.encoding.images import Box, printable
from bitgaze.errors import ImageError
from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup
from bitgaze.gallery.hits import UNRELATED, Hit, in_bits

_MAX_GROUPS = 500  # a longer page is slow in any browser
_NAMES = {
    "identical": ("identical file", "identical files"),
    "copy": ("copy", "copies"),
    "look-alike": ("look-alike", "look-alikes"),
}
# As in web/serve_rows.js and serve_cards.js; a test compares them.
_NARROWEST, _WIDEST, _UNKNOWN = 0.62, 3.2, 4 / 3
_LIKENESS = ((0.9, "nearly the same"), (0.7, "very alike"), (0.5, "alike"), (0.3, "somewhat alike"))
_SIDE = 400  # pixels, of an image in a row
_WEB = Path(__file__).parent.parent / "web"


class _Figure(NamedTuple):
    """The content of a figure, and its ratio of width to height, as far as a row shows it."""

    content: str
    ratio: float

    def with_badge(self, badge: str = "") -> str:
        """The figure as HTML."""
        return f'<div class="figure" style="--ratio: {self.ratio:.4f}">{self.content}{badge}</div>'


def results_page(
    encoder: Encoder,
    query: str,
    hits: Sequence[Hit],
    gallery_name: str,
    region: Box | None = None,
    unrelated_from: int | None = None,
) -> str:
    """The results of a search, with attention over each image.

    Args:
        encoder: computes the attention maps of query and hits.
        query: path of the query image.
        hits: the results. A hit whose file is gone, or that was added by hand, has no image on the
            page: the key of such an item may happen to name an unrelated file.
        gallery_name: shown in the header.
        region: the part of the query that was searched for; None for all of it.
        unrelated_from: the distance beyond which hits are probably unrelated; None if not known.

    Returns:
        The HTML text.
    """
    paths = [query, *[hit.path for hit in hits]]
    readable = [path for path in paths if path is not None]
    encoded = encoder.encode(readable)
    row_of = {path: row for row, path in enumerate(readable) if row not in encoded.errors}
    figures = [
        _figure(path, encoded.attention[row_of[path]] if path in row_of else None, box)
        for path, box in zip(paths, [region, *[hit.box for hit in hits]], strict=True)
    ]
    root = _root(hit.path for hit in hits)
    cards = [
        _card(figure, hit, root, encoder.bits)
        for figure, hit in zip(figures[1:], hits, strict=True)
    ]
    if unrelated_from is not None:
        related = sum(hit.is_copy or hit.distance <= unrelated_from for hit in hits)
        if related < len(hits):
            cards.insert(related, f'<li class="divider">{UNRELATED}</li>')
    texts = {
        "title": f"Images like {'a part of ' if region else ''}{Path(printable(query)).name}",
        "gallery": f"{f'{len(hits)} nearest' if hits else 'none'} in {printable(gallery_name)}",
        "model": f"model {encoder.contract.name}, {encoder.bits} bits",
    }
    values = {name: html.escape(text) for name, text in texts.items()}
    values |= {"query": figures[0].with_badge(), "hits": "\n".join(cards)}
    return _filled("results.html", values)


def duplicates_page(groups: Sequence[DuplicateGroup], radius: int | None, gallery_name: str) -> str:
    """Groups of duplicates, side by side.

    Args:
        groups: the groups; the page shows the first 500.
        radius: the radius of look-alikes, in bits; None if there are none.
        gallery_name: shown in the header.

    Returns:
        The HTML text.
    """
    count, left_out = len(groups), len(groups) - _MAX_GROUPS
    texts = {
        "gallery": printable(gallery_name),
        "look_alikes": ""
        if radius is None
        else f"Look-alikes differ in at most {radius} bits, and may be different images.",
        "groups": f"{count or 'No'} {'group' if count == 1 else 'groups'}",
        "left_out": f"This page leaves out {left_out} of them; --json has all."
        if left_out > 0
        else "",
    }
    values = {name: html.escape(text) for name, text in texts.items()}
    shown = groups[:_MAX_GROUPS]
    root = _root(one.path for group in shown for one in (group.best, *group.others))
    values["items"] = "\n".join(_group(group, root) for group in shown)
    return _filled("duplicates.html", values)


def _filled(template: str, values: dict[str, str]) -> str:
    """A template of web/ with its placeholders filled in one pass: a file may be named {{hits}}."""
    text = (_WEB / template).read_text(encoding="utf-8")
    values = values | {"style": (_WEB / "serve.css").read_text(encoding="utf-8")}
    return re.sub(r"\{\{(\w+)\}\}", lambda placeholder: values[placeholder[1]], text)


def _group(group: DuplicateGroup, root: str) -> str:
    members = [(one, _figure(one.path, None)) for one in (group.best, *group.others)]
    shapes = sum(figure.ratio for _, figure in members)
    tier = max((other.tier for other in group.others if other.tier), key=list(_NAMES).index)
    count = len(group.others)
    title = f"{_name(group.best.key)} and {count} {_NAMES[tier][count > 1]}"
    cards = "".join(_member(member, figure, root) for member, figure in members)
    return (
        f'<section class="group" style="--shapes: {shapes:.4f}; --gaps: {count}">'
        f'<h2>{html.escape(title)}</h2><ol class="rows">{cards}</ol></section>'
    )


def _member(member: Duplicate, figure: _Figure, root: str) -> str:
    size = "" if member.size is None else f"{member.size[0]} \u00d7 {member.size[1]}"
    file_bytes = "no file" if member.file_bytes is None else f"{member.file_bytes:,} bytes"
    facts = " \u00b7 ".join(filter(None, (size, file_bytes)))
    words = "best" if member.tier is None else _NAMES[member.tier][0]
    badge = _badge(words, is_good=member.tier is None)
    more = f'<p class="facts">{html.escape(facts)}</p>'
    return _item(figure, member.key, root, badge, more)


def _card(figure: _Figure, hit: Hit, root: str, bits: int) -> str:
    # Codes of unrelated images differ in about half of their bits.
    share = max(0, 1 - 2 * hit.distance / bits)
    likeness = next((words for least, words in _LIKENESS if share >= least), "hardly alike")
    differ = f"{in_bits(hit.distance)} of {bits} bits differ"
    chances = [f"{words} <b>{html.escape(chance)}</b>" for words, chance in hit.chances.items()]
    more = f'<p class="facts">+{len(hit.alike)} alike</p>' if hit.alike else ""
    spans = "".join(f"<span>{words}</span>" for words in (likeness, *chances))
    details = (
        f'<div class="details"><div class="bar" title="{differ}"><span style="--share: '
        f'{share:.1%}"></span></div><p class="chances">{spans}</p></div>'
    )
    copy = next((words for words in hit.chances if words != "same kind"), None)
    badge = _badge(copy, is_good=hit.is_copy) if copy else ""
    return _item(figure, hit.key, root, badge, more + details)


def _item(figure: _Figure, key: str, root: str, badge: str, more: str) -> str:
    name, folder = html.escape(_name(key)), html.escape(_folder(key, root))
    return (
        f'<li style="--ratio: {figure.ratio:.4f}">{figure.with_badge(badge)}<p class="name" '
        f'title="{html.escape(printable(key))}">{name}</p><p class="folder">{folder}</p>{more}</li>'
    )


def _badge(words: str, *, is_good: bool) -> str:
    good = " good" if is_good else ""
    return f'<p class="badges"><span class="badge{good}">{words}</span></p>'


def _name(key: str) -> str:
    return Path(printable(key)).name


def _root(paths: Iterable[str | None]) -> str:
    """The folder that all files share."""
    folders = {os.path.dirname(path) for path in paths if path is not None}  # noqa: PTH120
    try:
        return os.path.commonpath(folders) if folders else ""
    except ValueError:  # on several drives
        return ""


def _folder(key: str, root: str) -> str:
    """The folder of an item as a person sees it: below the one that all share."""
    folder = os.path.dirname(key)  # noqa: PTH120
    if not folder:
        return ""
    if folder == root:
        return _name(folder)
    below = folder.removeprefix(root)
    parts = [part for part in re.split(r"[/\\]", printable(below)) if part]
    return " \u203a ".join(parts if below != folder else parts[-2:])


def _figure(
    path: str | None, attention: NDArray[np.float32] | None, box: Box | None = None
) -> _Figure:
    """The image, a link to its file, and over it the same image with its attention."""
    if path is None:
        return _no_image("added by hand: no file")
    try:
        image = thumbnail(path, _SIDE)
    except ImageError:
        return _no_image("the file is gone or cannot be read")
    alt = html.escape(_name(path))
    heat = None if attention is None else overlay(image, attention)
    ratio = min(_WIDEST, max(_NARROWEST, image.width / image.height))
    if box is not None:
        image, heat = framed(image, box), heat and framed(heat, box)
    images = f'<img src="{data_uri(image)}" alt="{alt}">' + _heat(heat)
    return _Figure(f'<a class="open" href="{_address(path)}">{images}</a>', ratio)


def _heat(heat: Image.Image | None) -> str:
    return "" if heat is None else f'<img class="attention" src="{data_uri(heat)}" alt="">'


def _no_image(reason: str) -> _Figure:
    return _Figure(f'<span class="no-image">{reason}</span>', _UNKNOWN)


def _address(path: str) -> str:
    """The address of a file on this machine."""
    full = os.path.abspath(path)  # noqa: PTH100 (bytes that are no text)
    return "file:" + (pathname2url(full) if os.name == "nt" else f"//{quote(os.fsencode(full))}")
