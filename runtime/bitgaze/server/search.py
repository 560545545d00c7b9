"""The searches of the API: by an uploaded image, by an item, or by a code."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from starlette.datastructures import UploadFile
from starlette.requests import Request

from bitgaze.encoding.heatmap import data_uri, overlay, thumbnail
from bitgaze.gallery.filters import Condition, conditions
from bitgaze.gallery.query import Query
from bitgaze.server.answers import Answer, Refusal
from bitgaze.server.images import content_of
from bitgaze.server.items import hits_to_json, item_to_json
from bitgaze.server.parameters import (
    boolean,
    condition,
    integer,
    parameters_of,
    query_from,
    region,
    required,
)
from bitgaze.server.state import MAX_HITS, ServerState, check_model, item_of, item_query, state_of
from bitgaze.server.upload import check_image, uploaded_file


async def search(request: Request) -> Answer:
    """GET searches by an item of the gallery, POST by an image."""
    return await (_search_image if request.method == "POST" else _search_item)(request)


async def search_code(request: Request) -> Answer:
    """Search by a code that an earlier answer returned: the image need not be sent again."""
    parameters = parameters_of(request, "code", "k", "radius", "where", "region")
    state = state_of(request)
    nearest, filters = _search_with(parameters, state)
    text = required(parameters, "code")
    gallery = state.gallery
    query = query_from(text, gallery.bits, gallery.looks)
    part = region(parameters)  # where the code is from
    if part is not None:
        query = replace(query, boxes=(part, *query.boxes[1:]))

    def work() -> dict[str, Any]:
        # Taken for a code of the present adaptation: a code does not tell.
        return nearest(replace(query, adaptation=gallery.adaptation))

    async with state.filtering.ready_for(filters):
        found = await state.run_reading(work)
    return Answer({"item": None, "code": text, "region": part} | found)


async def search_words(request: Request) -> Answer:
    """Search for what words name, among the classes of the gallery's model."""
    parameters = parameters_of(request, "words", "k", "where")
    state = state_of(request)
    gallery, words = state.gallery, required(parameters, "words")
    k = integer(parameters, "k", 1, MAX_HITS) or 10
    where = condition(parameters)
    filters = _filters(where)
    _check_conditions(filters, state)

    def work() -> dict[str, Any]:
        hits = gallery.search_words(words, k, where=where)
        return {"words": words, "hits": hits_to_json(gallery, hits)}

    # The first search by words reads all items; as slow conditions, one at a time.
    async with state.filtering.ready_for(filters, is_slow=True):
        return Answer(await state.run_reading(work))


async def _search_item(request: Request) -> Answer:
    parameters = parameters_of(request, "key", "k", "radius", "where", "region")
    state = state_of(request)
    gallery = state.gallery
    nearest, filters = _search_with(parameters, state)
    key, part = required(parameters, "key"), region(parameters)

    def work() -> dict[str, Any]:
        # By its codes: if another process removes the item now, its key would count as a path.
        item = item_of(gallery, key)
        whole = item_query(gallery, key)
        query = whole if part is None else gallery.query(content_of(item), region=part)
        answer = {"item": item_to_json(item), "code": None, "region": part}
        return answer | nearest(query, key) | {"looks": whole.looks}

    if part is not None:
        check_model(gallery)
    async with state.filtering.ready_for(filters):
        run = state.run_reading if part is None else state.run_encoding
        return Answer(await run(work))


async def _search_image(request: Request) -> Answer:
    parameters = parameters_of(request, "k", "radius", "where", "images", "region")
    state = state_of(request)
    gallery, limits = state.gallery, state.limits
    nearest, filters = _search_with(parameters, state)
    with_images, part = boolean(parameters, "images"), region(parameters)
    check_model(gallery)

    def work(upload: UploadFile) -> dict[str, Any]:
        content = upload.file.read()
        check_image(content, limits.pixels)
        query = gallery.query(content, region=part)
        answer = {"item": None, "code": query.to_bytes().hex(), "region": part} | nearest(query)
        if with_images:
            encoded = gallery.encoder.encode([content])
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
        A function of a query, and of the key of an item to leave out or None, to the part of the
        answer that all searches share; and the conditions of where.
    """
    gallery = state.gallery
    k = integer(parameters, "k", 1, MAX_HITS) or 10
    radius = integer(parameters, "radius", 0, gallery.bits)
    where = condition(parameters)
    filters = _filters(where)
    _check_conditions(filters, state)

    def nearest(query: Query, key: str | None = None) -> dict[str, Any]:
        hits = gallery.search(query, k + (key is not None), radius=radius, where=where)
        others = [hit for hit in hits if hit.key != key]
        return {
            "bits": gallery.bits,
            "looks": query.looks,
            "hits": hits_to_json(gallery, others[:k]),
        }

    return nearest, filters


def _filters(where: dict[str, Any] | None) -> tuple[Condition, ...]:
    try:
        return conditions(where or {})
    except ValueError as error:
        raise Refusal(400, "bad_argument", str(error)) from error


def _check_conditions(filters: tuple[Condition, ...], state: ServerState) -> None:
    limits = state.limits
    if len(filters) > limits.conditions:
        raise Refusal(
            400,
            "too_many_conditions",
            f"where has {len(filters)} conditions; the limit is {limits.conditions}.",
        )
    state.filtering.check(filters)
