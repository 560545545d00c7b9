"""Self-contained HTML pages: a search and the attention over its hits; groups of duplicates.

Knows how results look. Everything is inside the file: it can be mailed, and opens without a
network.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.heatmap import data_uri, overlay, thumbnail
from bitgaze.encoding.images import printable
from bitgaze.errors import ImageError
from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup
from bitgaze.gallery.search import Hit

_MAX_GROUPS = 500
_WEB = Path(__file__).parent.parent / "web"


def results_page(encoder: Encoder, query: str, hits: Sequence[Hit], gallery_name: str) -> str:
    """The page as text.

    Args:
        encoder: makes the attention maps of query and hits.
        query: path of the query image.
        hits: of the search; one whose file is gone, or that was added by hand, is shown without a
            image: its key may be the name of a file that has nothing to do with it.
        gallery_name: for the head line.
    """
    paths = [query, *[hit.path for hit in hits]]
    readable = [path for path in paths if path is not None]
    encoded = encoder.encode(readable)
    row_of = {path: row for row, path in enumerate(readable) if row not in encoded.errors}
    figures = [
        _figure(path, encoded.attention[row_of[path]] if path in row_of else None) for path in paths
    ]
    cards = [
        _card(figure, hit, rank, encoder.bits)
        for rank, (figure, hit) in enumerate(zip(figures[1:], hits, strict=True), start=1)
    ]
    words = {
        "title": f"Images like {Path(printable(query)).name}",
        "gallery": f"{len(hits)} nearest in {printable(gallery_name)}",
        "model": f"model {encoder.contract.name}, {encoder.bits} bits",
    }
    values = {name: html.escape(text) for name, text in words.items()}
    values |= {"query": figures[0], "hits": "\n".join(cards)}
    return _filled("results.html", values)


def duplicates_page(groups: Sequence[DuplicateGroup], radius: int, gallery_name: str) -> str:
    """Groups of near-duplicates as a page's text.

    Args:
        groups: the first 500 are shown; more would make a file that no browser likes.
        radius: that they were found with.
        gallery_name: for the head line.
    """
    left_out = len(groups) - _MAX_GROUPS
    words = {
        "gallery": printable(gallery_name),
        "radius": str(radius),
        "count": str(len(groups)),
        "left_out": f"{left_out} more are not shown here; --json has them all."
        if left_out > 0
        else "",
    }
    values = {name: html.escape(text) for name, text in words.items()}
    values["groups"] = "\n".join(map(_group, groups[:_MAX_GROUPS]))
    return _filled("duplicates.html", values)


def _filled(template: str, values: dict[str, str]) -> str:
    """A template of web/ with its places filled, in one pass: a file may be named {{hits}}."""
    text = (_WEB / template).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda place: values[place[1]], text)


def _group(group: DuplicateGroup) -> str:
    members = [_member(group.best, is_best=True), *map(_member, group.others)]
    return f"<li><ol>{''.join(members)}</ol></li>"


def _member(member: Duplicate, *, is_best: bool = False) -> str:
    facts = [] if is_best else [f"{member.distance} bits differ"]
    if member.size is not None:
        facts.append(f"{member.size[0]} x {member.size[1]}")
    if member.file_bytes is not None:
        facts.append(f"{member.file_bytes:,} bytes")
    mark = '<b class="best">best copy</b> ' if is_best else ""
    key = html.escape(member.key)
    return (
        f'<li>{_figure(member.path, None)}<p class="name" title="{key}">{mark}{key}'
        f'</p><p class="facts">{", ".join(facts)}</p></li>'
    )


def _card(figure: str, hit: Hit, rank: int, bits: int) -> str:
    name = html.escape(Path(hit.key).name)
    facts = [f"{hit.distance} of {bits} bits differ"]
    facts += [html.escape(f"{words} {chance}") for words, chance in hit.chances.items()]
    return (
        f"<li>{figure}"
        f'<p class="name" title="{html.escape(hit.key)}"><b>{rank}</b> {name}</p>'
        f'<meter min="0" max="{bits}" value="{bits - hit.distance}"></meter>'
        f'<p class="distance">{", ".join(facts)}</p></li>'
    )


def _figure(path: str | None, attention: NDArray[np.float32] | None) -> str:
    """The image, and above it the same one with its attention; the page's switch hides one."""
    if path is None:
        return '<div class="figure gone">added by hand: there is no file</div>'
    try:
        image = thumbnail(path)
    except ImageError:
        return '<div class="figure gone">the file is gone or cannot be read</div>'
    alt = html.escape(Path(printable(path)).name)
    images = f'<img src="{data_uri(image)}" alt="{alt}">'
    if attention is not None:
        images += (
            f'<img class="attention" src="{data_uri(overlay(image, attention))}" '
            f'alt="attention over {alt}">'
        )
    return f'<div class="figure">{images}</div>'
