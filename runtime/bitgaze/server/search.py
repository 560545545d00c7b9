"""The searches of the API: by an uploaded image, by an item, or by a code."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.requests import Request

from bitgaze.encoding.heatmap import data_uri, overlay, thumbnail
from bitgaze.gallery.filters import Condition, conditions
from bitgaze.gallery.search import Hit
from bitgaze.server.answers import Answer, Refusal
from bitgaze.server.browse import item_to_json
from bitgaze.server.filtering import slow_fields
from bitgaze.server.parameters import (
    boolean,
    code_from,
    condition,
    integer,
    parameters_of,
    required,
)
from bitgaze.server.state import MAX_HITS, ServerState, check_model, item_of, state_of
from bitgaze.server.upload import check_image, uploaded_file


async def search(request: Request) -> Answer:
    """GET searches by an item of the gallery, POST by an image."""
    return await (_search_image if request.method == "POST" else _search_item)(request)


async def search_code(request: Request) -> Answer:
    """Search by a code that an earlier answer returned: the image need not be sent again."""
    parameters = parameters_of(request, "code", "k", "radius", "where")
    state = state_of(request)
    nearest, filters = _search_with(parameters, state)
    text = required(parameters, "code")
    code = code_from(text, state.gallery.bits)
    async with state.filtering.ready_for(filters):
        found = await state.run_reading(lambda: nearest(code))
    return Answer({"item": None, "code": text} | found)


async def _search_item(request: Request) -> Answer:
    parameters = parameters_of(request, "key", "k", "radius", "where")
    state = state_of(request)
    nearest, filters = _search_with(parameters, state)
    key = required(parameters, "key")

    def work() -> dict[str, Any]:
        # By its code: if another process removes the item now, its key would count as a path.
        item = item_of(state.gallery, key)
        return {"item": item_to_json(item), "code": None} | nearest(item.code, key)

    async with state.filtering.ready_for(filters):
        return Answer(await state.run_reading(work))


async def _search_image(request: Request) -> Answer:
    parameters = parameters_of(request, "k", "radius", "where", "images")
    state = state_of(request)
    gallery, limits = state.gallery, state.limits
    nearest, filters = _search_with(parameters, state)
    with_images = boolean(parameters, "images")
    check_model(gallery)

    def work(upload: UploadFile) -> dict[str, Any]:
        content = upload.file.read()
        check_image(content, limits.pixels)
        encoded = gallery.encode([content])
        if encoded.errors:
            raise encoded.errors[0]
        code = encoded.codes[0]
        answer = {"item": None, "code": code.tobytes().hex()} | nearest(code)
        if with_images:
            small = thumbnail(content)
            answer["image"] = data_uri(small)
            answer["attention"] = data_uri(overlay(small, encoded.attention[0]))
        return answer

    async with (
        uploaded_file(request, limits.upload_bytes, limits.upload_seconds) as upload,
        state.filtering.ready_for(filters),
    ):
        return Answer(await state.run_encoding(lambda: work(upload)))


def _search_with(
    parameters: dict[str, str], state: ServerState
) -> tuple[Callable[..., dict[str, Any]], tuple[Condition, ...]]:
    """A search with the k, radius and where of these parameters.

    Returns:
        A function of a code, and of the key of an item to leave out or None, to the part of the
        answer that all searches share; and the conditions of where.
    """
    gallery = state.gallery
    k = integer(parameters, "k", 1, MAX_HITS) or 10
    radius = integer(parameters, "radius", 0, gallery.bits)
    where = condition(parameters)
    try:
        filters = conditions(where or {})
    except ValueError as error:
        raise Refusal(400, "bad_argument", str(error)) from error
    _check_conditions(filters, state)

    def nearest(code: NDArray[np.uint8], key: str | None = None) -> dict[str, Any]:
        hits = gallery.search_code(code, k + (key is not None), radius=radius, where=where)
        others = [hit for hit in hits if hit.key != key]
        return {"bits": gallery.bits, "hits": [_hit_to_json(hit) for hit in others[:k]]}

    return nearest, filters


def _check_conditions(filters: tuple[Condition, ...], state: ServerState) -> None:
    limits, slow = state.limits, slow_fields(filters)
    if len(filters) > limits.conditions:
        raise Refusal(
            400,
            "too_many_conditions",
            f"where has {len(filters)} conditions; the limit is {limits.conditions}.",
        )
    if len(slow) > limits.slow_fields:
        raise Refusal(
            429,
            "too_many_conditions",
            f"where has {len(slow)} fields that are compared with a pattern, or ranges of the key; "
            f"the limit is {limits.slow_fields}, since all items must be looked at for each.",
        )


def _hit_to_json(hit: Hit) -> dict[str, Any]:
    facts = asdict(hit)
    del facts["path"]
    return facts | {"chances": hit.chances} | item_to_json(hit)
