"""Self-contained HTML pages: a search and the attention over its hits; groups of duplicates.

Knows how results look. Everything is inside the file: it can be mailed, and opens without a
network.
"""

import base64
import html
import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bitgaze.duplicates import Duplicate, DuplicateGroup
from bitgaze.encoder import Encoder
from bitgaze.errors import ImageError
from bitgaze.explain import overlay
from bitgaze.images import printable, upright
from bitgaze.searching import Hit

_THUMBNAIL_PX = 320
_MAX_GROUPS = 500
_WEB = Path(__file__).parent / "web"


def results_page(encoder: Encoder, query: str, hits: Sequence[Hit], gallery_name: str) -> str:
    """The page as text.

    Args:
        encoder: makes the attention maps of query and hits.
        query: path of the query picture.
        hits: of the search; one whose file is gone, or that was added by hand, is shown without a
            picture: its key may be the name of a file that has nothing to do with it.
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
        "title": f"Pictures like {Path(printable(query)).name}",
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
    likeness = f"{hit.distance} of {bits} bits differ"
    if hit.probability is not None:
        likeness += f", same kind {hit.probability:.0%}"
    if hit.duplicate is not None:
        likeness += f", same picture {hit.duplicate:.0%}"
    return (
        f"<li>{figure}"
        f'<p class="name" title="{html.escape(hit.key)}"><b>{rank}</b> {name}</p>'
        f'<meter min="0" max="{bits}" value="{bits - hit.distance}"></meter>'
        f'<p class="distance">{likeness}</p></li>'
    )


def _figure(path: str | None, attention: NDArray[np.float32] | None) -> str:
    """The picture, and above it the same one with its attention; the page's switch hides one."""
    if path is None:
        return '<div class="figure gone">added by hand: there is no file</div>'
    try:
        image = upright(path, _THUMBNAIL_PX)
    except ImageError:
        return '<div class="figure gone">the file is gone or cannot be read</div>'
    image.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    alt = html.escape(Path(printable(path)).name)
    images = f'<img src="{_data_uri(image)}" alt="{alt}">'
    if attention is not None:
        images += (
            f'<img class="attention" src="{_data_uri(overlay(image, attention))}" '
            f'alt="attention over {alt}">'
        )
    return f'<div class="figure">{images}</div>'


def _data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
