"""Explain a hit: draw query and hit with their attention maps, and the bits that differ."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from bitgaze.encoding.encoder import Encoder
from bitgaze.encoding.heatmap import framed, in_srgb, overlay
from bitgaze.encoding.images import Box, Source, printable, with_upright
from bitgaze.errors import ImageError
from bitgaze.gallery.distances import code_distances, nearest_pairs
from bitgaze.gallery.hits import Hit, in_bits
from bitgaze.gallery.items import Item, reason_changed
from bitgaze.gallery.query import code_inside
from bitgaze.gallery.search import as_source, compare, encode_query, image_query, item_query
from bitgaze.gallery.store import Store

# Layout, in pixels.
_MARGIN, _PANEL, _LINE = 24, (400, 300), 20
_BITS_PER_ROW, _CELL, _GAP = 32, 18, 7
# Text, secondary text, background, empty panels and zero bits, and differing bits.
_INK, _SOFT, _PAPER, _EMPTY = "#1c1b22", "#6a6775", "#faf9f7", "#e4e1dc"
_DIFFERENT = "#b5432f"
_MAX_LINE_LENGTH = 56


@dataclass(frozen=True)
class _Side:
    """One half of the drawing: the query, or the hit.

    Attributes:
        image: with its attention laid over it; None if it cannot be shown.
        lines: text below the image.
    """

    image: Image.Image | None
    lines: tuple[str, ...]


def explain(store: Store, encoder: Callable[[], Encoder], query: Source, key: str) -> Image.Image:
    """Draw why an item is near a query; see `Gallery.explain`.

    Args:
        store: the gallery's file.
        encoder: returns the gallery's model.
        query: an image, or the key of an item.
        key: key of the hit.
    """
    while True:
        with store.reading():
            query_item, item = _items(store, query, key)
            has_model = bool(store.info["fingerprint"])
            state = _state(store, query_item, item)
        # Outside of the snapshot: decoding an image can take seconds.
        if query_item is None:
            source = as_source(query)
            encoded, inside = encode_query(store, encoder(), source), code_inside(source)
            side = _image_side(query, source, encoded.attention[0])
        else:
            side = _item_side(encoder, has_model, query_item)
        item_side = _item_side(encoder, has_model, item)
        with store.reading():
            if state != _state(store, *_items(store, query, key)):
                # Another process has changed an item or the adaptation: all is of one state.
                continue
            if query_item is None:
                found = image_query(store, encoder(), source, encoded, inside)
            else:
                found = item_query(store, query_item)
            hit = compare(store, found, store.slot(key))
            views = item_query(store, item).views
            break
    (of_query,), (of_item,) = nearest_pairs(found.views, views[None])
    codes = found.views[of_query], views[of_item]
    sides = _marked(side, hit.query_box), _marked(item_side, hit.box)
    return _draw(sides, codes, _facts(hit, codes))


def _facts(hit: Hit, codes: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> str:
    bits = 8 * len(codes[0])
    facts = [f"{in_bits(hit.distance)} of {bits} bits differ"]
    if hit.box or hit.query_box:
        facts = [
            f"{code_distances(*codes)} of {bits} bits differ where they match best, "
            f"{in_bits(hit.distance)} over all looks"
        ]
    facts += [f"{words} {chance}" for words, chance in hit.chances.items()]
    return ",  ".join(facts)


def _marked(side: _Side, box: Box | None) -> _Side:
    """A side with a frame around the part of its image that matches."""
    if side.image is None or box is None:
        return side
    return replace(side, image=framed(side.image, box))


def _items(store: Store, query: Source, key: str) -> tuple[Item | None, Item]:
    """The query's item, if it is a key, and the hit's."""
    query_item = None
    if isinstance(query, str) and store.find(query) is not None:
        query_item = store.item(store.slot(query))
    return query_item, store.item(store.slot(key))


def _state(store: Store, *items: Item | None) -> list[Any]:
    """What a drawing of some items depends on, to compare."""
    adaptation = store.info["adaptation"]
    described = [item and (item.code.tobytes(), item.metadata, item.file) for item in items]
    return [adaptation and adaptation.fingerprint, store.calibration, *described]


def _image_side(query: Source, source: Source, attention: NDArray[np.float32]) -> _Side:
    name = Path(printable(query)).name if isinstance(query, str | os.PathLike) else "the query"
    return _Side(overlay(_panel(source), attention), (name,))


def _item_side(encoder: Callable[[], Encoder], has_model: bool, item: Item) -> _Side:
    """An item, with its image if the file can still be read."""
    name = Path(item.key).name if item.file is not None else item.key
    lines = [name, *([json.dumps(item.metadata, ensure_ascii=False)] if item.metadata else [])]
    if item.file is None or item.path is None:
        return _Side(None, (*lines, "added by hand, without a file"))
    if not has_model:
        return _Side(None, (*lines, "your own code: no model, so no attention"))
    reason = reason_changed(item.file)
    try:
        encoded = encoder().encode([item.path])
        image = _panel(item.path)
    except ImageError:
        encoded = None
    if encoded is None or encoded.errors:
        return _Side(None, (*lines, f"its file: {reason or 'cannot be read'}"))
    if reason is not None:
        lines.append("its file has changed; the bits are those of the old one")
    return _Side(overlay(image, encoded.attention[0]), tuple(lines))


def _panel(source: Source) -> Image.Image:
    fit = with_upright(source, min(_PANEL), lambda image: ImageOps.contain(image, _PANEL))
    return in_srgb(fit)


def _draw(
    sides: tuple[_Side, _Side], codes: tuple[NDArray[np.uint8], NDArray[np.uint8]], facts: str
) -> Image.Image:
    bits = [np.unpackbits(code).astype(bool) for code in codes]
    rows = -(-len(bits[0]) // _BITS_PER_ROW)
    lines = max(len(side.lines) for side in sides)
    below = 2 * _MARGIN + _PANEL[1] + (lines + 2) * _LINE
    width = 3 * _MARGIN + 2 * _PANEL[0]
    drawing = Image.new("RGB", (width, below + 3 * _LINE + rows * (_CELL + _GAP)), _PAPER)
    draw = ImageDraw.Draw(drawing)
    font, large = ImageFont.load_default(14), ImageFont.load_default(18)
    for column, side in enumerate(sides):
        left = _MARGIN + column * (_PANEL[0] + _MARGIN)
        corner = (left + _PANEL[0], _MARGIN + _PANEL[1])
        draw.rectangle((left, _MARGIN, *corner), fill=_EMPTY)
        if side.image is None:
            middle = ((left + corner[0]) // 2, (_MARGIN + corner[1]) // 2)
            draw.text(middle, "image not available", fill=_SOFT, font=font, anchor="mm")
        else:
            space = [room - used for room, used in zip(_PANEL, side.image.size, strict=True)]
            drawing.paste(side.image, (left + space[0] // 2, _MARGIN + space[1] // 2))
        for n, text in enumerate(side.lines):
            place = (left, corner[1] + 8 + n * _LINE)
            draw.text(place, _shortened(text), fill=_SOFT if n else _INK, font=font)
    draw.text((_MARGIN, below - _LINE), facts, fill=_INK, font=large)
    legend = "bits: dark 1, light 0; red if they differ: query's above, hit's below"
    draw.text((_MARGIN, below + 8), legend, fill=_SOFT, font=font)
    for n, (one, other) in enumerate(zip(*bits, strict=True)):
        row, column = divmod(n, _BITS_PER_ROW)
        left = _MARGIN + column * (width - 2 * _MARGIN) // _BITS_PER_ROW
        top = below + 2 * _LINE + row * (_CELL + _GAP)
        if one == other:
            fill = _INK if one else _EMPTY
            draw.rectangle((left, top, left + _CELL, top + _CELL), fill=fill)
            continue
        draw.rectangle((left - 2, top - 2, left + _CELL + 2, top + _CELL + 2), fill=_DIFFERENT)
        for half, value in enumerate((one, other)):
            start = top + half * (_CELL // 2 + 1)
            box = (left, start, left + _CELL, start + _CELL // 2 - 1)
            draw.rectangle(box, fill=_INK if value else _EMPTY)
    return drawing


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_LINE_LENGTH else f"{text[: _MAX_LINE_LENGTH - 3]}..."
