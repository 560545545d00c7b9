"""Search, as the API has it: by an image, an item or a code.

Knows what a search answers. Does not know pages.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.requests import Request

from bitgaze.encoding.heatmap import data_uri, overlay, thumbnail
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.search import Hit
from bitgaze.server.answers import Answer, Refusal
from bitgaze.server.browse import to_json
from bitgaze.server.parameters import arguments, boolean, code_from, condition, integer, needed
from bitgaze.server.state import MOST_HITS, check_model, item_of, serving_of
from bitgaze.server.upload import check_image, received


async def search(request: Request) -> Answer:
    """GET by an item of the gallery, POST by an image."""
    return await (_by_image if request.method == "POST" else _by_item)(request)


async def search_code(request: Request) -> Answer:
    """By a code that an earlier answer gave: the image need not be sent again."""
    given = arguments(request, "code", "k", "radius", "where")
    serving = serving_of(request)
    nearest = _search_of(given, serving.gallery)
    text = needed(given, "code")
    code = code_from(text, serving.gallery.bits)
    return Answer(await serving.reading(lambda: {"item": None, "code": text} | nearest(code)))


async def _by_item(request: Request) -> Answer:
    given = arguments(request, "key", "k", "radius", "where")
    serving = serving_of(request)
    nearest = _search_of(given, serving.gallery)
    key = needed(given, "key")

    def look() -> dict[str, Any]:
        # By its code: a key that another process removes now would be taken for a path.
        item = item_of(serving.gallery, key)
        return {"item": to_json(item), "code": None} | nearest(item.code, key)

    return Answer(await serving.reading(look))


async def _by_image(request: Request) -> Answer:
    given = arguments(request, "k", "radius", "where", "images")
    serving = serving_of(request)
    gallery, limits = serving.gallery, serving.limits
    nearest = _search_of(given, gallery)
    shows = boolean(given, "images")
    check_model(gallery)

    def look(upload: UploadFile) -> dict[str, Any]:
        content = upload.file.read()
        check_image(content, limits.pixels)
        encoded = gallery.encode([content])
        if encoded.errors:
            raise encoded.errors[0]
        code = encoded.codes[0]
        answer = {"item": None, "code": code.tobytes().hex()} | nearest(code)
        if shows:
            small = thumbnail(content)
            answer["image"] = data_uri(small)
            answer["attention"] = data_uri(overlay(small, encoded.attention[0]))
        return answer

    async with received(request, limits.upload_bytes, limits.upload_seconds) as upload:
        return Answer(await serving.encoding(lambda: look(upload)))


def _search_of(given: dict[str, str], gallery: Gallery) -> Callable[..., dict[str, Any]]:
    """What a search answers, for a code and the key of its item, with arguments as given."""
    k = integer(given, "k", 1, MOST_HITS) or 10
    radius = integer(given, "radius", 0, gallery.bits)
    where = condition(given)

    def nearest(code: NDArray[np.uint8], key: str | None = None) -> dict[str, Any]:
        try:
            hits = gallery.search_code(code, k + (key is not None), radius=radius, where=where)
        except ValueError as error:
            raise Refusal(400, "bad_argument", str(error)) from error
        others = [hit for hit in hits if hit.key != key]
        return {"bits": gallery.bits, "hits": [_all_of(hit) for hit in others[:k]]}

    return nearest


def _all_of(hit: Hit) -> dict[str, Any]:
    facts = asdict(hit)
    del facts["path"]
    return facts | {"chances": hit.chances} | to_json(hit)
