"""Self-contained HTML pages of search results and of duplicate groups.

Each page is one file with its images inside: it can be mailed, and opens without a network.
"""

import html
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.heatmap import data_uri, framed, overlay, thumbnail
from bitgaze.encoding.images import Box, printable
from bitgaze.errors import ImageError
from bitgaze.gallery.duplicates import Duplicate, DuplicateGroup
from bitgaze.gallery.hits import UNRELATED, Hit, in_bits

_MAX_GROUPS = 500
_TIERS = {
    None: "best copy",
    "identical": "identical file",
    "copy": "a copy",
    "look-alike": "looks alike",
}  # a longer page is slow in any browser
_WEB = Path(__file__).parent.parent / "web"


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
    cards = [
        _card(figure, hit, rank, encoder.bits)
        for rank, (figure, hit) in enumerate(zip(figures[1:], hits, strict=True), start=1)
    ]
    if unrelated_from is not None:
        related = sum(hit.distance <= unrelated_from for hit in hits)
        if related < len(hits):
            cards.insert(related, f'<li class="divider">{UNRELATED}</li>')
    texts = {
        "title": f"Images like {'a part of ' if region else ''}{Path(printable(query)).name}",
        "gallery": f"{f'{len(hits)} nearest' if hits else 'none'} in {printable(gallery_name)}",
        "model": f"model {encoder.contract.name}, {encoder.bits} bits",
    }
    values = {name: html.escape(text) for name, text in texts.items()}
    values |= {"query": figures[0], "hits": "\n".join(cards)}
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
    values["items"] = "\n".join(map(_group, groups[:_MAX_GROUPS]))
    return _filled("duplicates.html", values)


def _filled(template: str, values: dict[str, str]) -> str:
    """A template of web/ with its placeholders filled in one pass: a file may be named {{hits}}."""
    text = (_WEB / template).read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda placeholder: values[placeholder[1]], text)


def _group(group: DuplicateGroup) -> str:
    members = map(_member, (group.best, *group.others))
    return f"<li><ol>{''.join(members)}</ol></li>"


def _member(member: Duplicate) -> str:
    words = _TIERS[member.tier]
    facts = [
        words if member.tier in (None, "identical") else f"{words}, {member.distance} bits differ"
    ]
    if member.size is not None:
        facts.append(f"{member.size[0]} x {member.size[1]}")
    if member.file_bytes is not None:
        facts.append(f"{member.file_bytes:,} bytes")
    key = html.escape(member.key)
    best = ' class="best"' if member.tier is None else ""
    return (
        f'<li{best}>{_figure(member.path, None)}<p class="name" title="{key}">{key}</p>'
        f"{_facts(facts)}</li>"
    )


def _card(figure: str, hit: Hit, rank: int, bits: int) -> str:
    name = html.escape(Path(hit.key).name)
    facts = [f"{words} {chance}" for words, chance in hit.chances.items()]
    if hit.alike:
        facts.append(f"+{len(hit.alike)} alike")
    differ = f"{in_bits(hit.distance)} of {bits} bits differ"
    # Unrelated images differ in about half of the bits; serve_cards.js draws the same bar.
    share = max(0, 1 - 2 * hit.distance / bits)
    return (
        f"<li>{figure}"
        f'<p class="name" title="{html.escape(hit.key)}"><b>{rank}</b> {name}</p>'
        f'<div class="bar" title="{differ}"><span style="width: {share:.1%}"></span></div>'
        f"{_facts(facts)}</li>"
    )


def _facts(facts: list[str]) -> str:
    spans = [f"<span>{html.escape(fact)}</span>" for fact in facts]
    return f'<p class="facts">{" ".join(spans)}</p>'


def _figure(path: str | None, attention: NDArray[np.float32] | None, box: Box | None = None) -> str:
    """The image, and on top of it the same image with its attention, which the page can hide."""
    if path is None:
        return '<div class="figure no-image">added by hand: no file</div>'
    try:
        image = thumbnail(path)
    except ImageError:
        return '<div class="figure no-image">the file is gone or cannot be read</div>'
    alt = html.escape(Path(printable(path)).name)
    heat = None if attention is None else overlay(image, attention)
    if box is not None:
        image, heat = framed(image, box), heat and framed(heat, box)
    images = f'<img src="{data_uri(image)}" alt="{alt}">'
    if heat is not None:
        images += f'<img class="attention" src="{data_uri(heat)}" alt="attention over {alt}">'
    return f'<div class="figure">{images}</div>'
