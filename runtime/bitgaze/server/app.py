"""The application of `bitgaze serve`: its routes, the files of its page, and facts of the gallery.

web/openapi.json describes the API. Requires the extra `serve`.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bitgaze.errors import BitgazeError, GalleryError, WhereError, WordError
from bitgaze.gallery.gallery import Gallery
from bitgaze.gallery.hits import UNRELATED_RATE, unrelated_from
from bitgaze.server.abandoned import StopAbandoned
from bitgaze.server.answers import Answer, Refusal, error_answer
from bitgaze.server.browse import browse
from bitgaze.server.duplicates import duplicates, set_distinct
from bitgaze.server.guard import LOOPBACK, Guard, check_token
from bitgaze.server.images import attention_image, thumbnail_image
from bitgaze.server.items import item_to_json
from bitgaze.server.observe import Answered, Metrics, Observe, log_request
from bitgaze.server.parameters import parameters_of, required
from bitgaze.server.reveal import can_reveal, reveal
from bitgaze.server.search import search, search_code, search_words
from bitgaze.server.state import DEFAULT_LIMITS, MAX_HITS, Limits, ServerState, item_of, state_of

_WEB = Path(__file__).parent.parent / "web"
_FILES = {
    "/": ("serve.html", "text/html"),
    "/duplicates": ("serve_duplicates.html", "text/html"),
    "/serve.css": ("serve.css", "text/css"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/serve_duplicates.js": ("serve_duplicates.js", "text/javascript"),
    "/serve_rows.js": ("serve_rows.js", "text/javascript"),
    "/serve_marks.js": ("serve_marks.js", "text/javascript"),
    "/serve_news.js": ("serve_news.js", "text/javascript"),
    "/serve_api.js": ("serve_api.js", "text/javascript"),
    "/serve_cards.js": ("serve_cards.js", "text/javascript"),
    "/serve_dom.js": ("serve_dom.js", "text/javascript"),
    "/serve_region.js": ("serve_region.js", "text/javascript"),
    "/serve_lightbox.js": ("serve_lightbox.js", "text/javascript"),
    "/serve_filters.js": ("serve_filters.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/api/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}


_INCLUDE = re.compile(r"<!-- include (\w+\.html) -->\n")


def create_app(
    gallery: Gallery,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    limits: Limits = DEFAULT_LIMITS,
    log: bool = False,
    is_local: bool = False,
) -> Starlette:
    """The server as an ASGI application, for uvicorn or another ASGI server.

    Args:
        gallery: a gallery that stays open while the application runs. All requests share its
            encoder.
        token: token that every request to the API must carry: 16 or more of a to z, A to Z, 0 to 9
            and - . _ ~. None requires no token; then only this machine should be able to reach the
            server.
        hosts: host names that the server answers to. A Host header with another name comes from a
            page that imitates this one (DNS rebinding). With a token, the server answers to every
            IP address as well.
        limits: limits of a request.
        log: whether to log each request, to the logger `bitgaze.requests`.
        is_local: whether only this machine can reach the server. Then its browsers may have it
            show files in the file manager.

    Raises:
        FingerprintMismatch: the gallery requires another model than it was opened with.
        ValueError: the token is too short, or has other characters.
    """
    if token is not None:
        check_token(token)
    if gallery.fingerprint is not None:
        _ = gallery.encoder  # loads the model: a wrong one fails here, not in the first search
    routes = [
        *(Route(path, _static_file(*file)) for path, file in _FILES.items()),
        Route("/api/openapi.json", _openapi(gallery.bits, gallery.looks)),
        Route("/health", _health),
        Route("/metrics", _metrics),
        Route("/api/gallery", _gallery),
        Route("/api/browse", _browse),
        Route("/api/item", _item),
        Route("/api/search", search, methods=["GET", "POST"]),
        Route("/api/search/code", search_code),
        Route("/api/search/words", search_words),
        Route("/api/duplicates", duplicates),
        Route("/api/distinct", set_distinct, methods=["POST"]),
        Route("/api/reveal", reveal, methods=["POST"]),
        Route("/api/thumbnail", thumbnail_image),
        Route("/api/attention", attention_image),
    ]
    metrics = Metrics()

    def report(answered: Answered) -> None:
        metrics.count(answered)
        if log:
            log_request(answered)

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(Observe, routes={route.path for route in routes}, report=report),
            Middleware(Guard, hosts=hosts, token=token),
            Middleware(StopAbandoned),
        ],
        exception_handlers={
            kind: error_answer
            for kind in (Refusal, HTTPException, BitgazeError, WhereError, Exception)
        },
    )
    app.state.server = ServerState(gallery, limits, is_local=is_local)
    app.state.metrics = metrics
    return app


async def _health(request: Request) -> Answer:
    """Whether the server works; never waits long for the gallery, which a search may keep busy."""
    parameters_of(request)
    state = state_of(request)
    may_read = request.state.may_read
    try:
        items = await state.item_count()
    except GalleryError as error:
        if may_read:
            raise
        raise Refusal(
            503,
            "gallery_unavailable",
            "The gallery cannot be read; send the token to learn why.",
        ) from error
    if not may_read:
        return Answer({"status": "ok"})
    gallery = state.gallery
    report = None if gallery.fingerprint is None else gallery.encoder.report
    return Answer(
        {
            "status": "ok",
            "items": items,
            "model": gallery.model_name,
            "fingerprint": gallery.fingerprint,
            "session": None if report is None else asdict(report) | {"summary": str(report)},
        }
    )


async def _metrics(request: Request) -> Response:
    """What the server did, for Prometheus."""
    parameters_of(request)
    state = state_of(request)
    gallery, items = state.gallery, await state.item_count()
    facts = {
        "version": version("bitgaze"),
        "model": gallery.model_name or "",
        "fingerprint": gallery.fingerprint or "",
    }
    text = await state.run_reading(lambda: request.app.state.metrics.text(items, facts))
    return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _gallery(request: Request) -> Answer:
    parameters_of(request)
    state = state_of(request)

    def work() -> dict[str, Any]:
        gallery = state.gallery
        return {
            "name": gallery.path.name,
            "id": hashlib.blake2b(os.fsencode(gallery.path.resolve()), digest_size=8).hexdigest(),
            "items": len(gallery),
            "bits": gallery.bits,
            "looks": gallery.looks,
            "words": _knows_words(gallery),
            "model": gallery.model_name,
            "fingerprint": gallery.fingerprint,
            "adaptation": gallery.adaptation,
            "radius": _suggested_radius(gallery),
            "unrelated": _unrelated(gallery),
            "can_reveal": can_reveal(request),
            "limits": asdict(state.limits) | {"hits": MAX_HITS},
        }

    return Answer(await state.run_reading(work))


async def _item(request: Request) -> Answer:
    key = required(parameters_of(request, "key"), "key")
    state = state_of(request)

    def work() -> dict[str, Any]:
        item = item_of(state.gallery, key)
        facts = {"metadata": item.metadata, "properties": item.properties or {}}
        return item_to_json(item) | facts | {"looks": item.boxes.tolist()}

    return Answer(await state.run_reading(work))


async def _browse(request: Request) -> Answer:
    parameters_of(request)
    state = state_of(request)
    return Answer(await state.run_reading(lambda: browse(state.gallery)))


def _knows_words(gallery: Gallery) -> bool:
    try:
        _ = gallery.vocabulary
    except WordError:
        return False
    return True


def _suggested_radius(gallery: Gallery) -> int | None:
    try:
        return gallery.radius()
    except (GalleryError, ValueError):  # not calibrated, or too few images to tell
        return None


def _unrelated(gallery: Gallery) -> dict[str, int] | None:
    """The distance from which on hits are probably unrelated, and how many such are within it."""
    radius = unrelated_from(gallery.calibration)
    if radius is None:
        return None
    return {"radius": radius, "expected": max(1, round(UNRELATED_RATE * len(gallery)))}


def _openapi(bits: int, looks: int) -> Callable[[Request], Any]:
    """The OpenAPI description, with the code length of this gallery."""
    content = json.loads((_WEB / "openapi.json").read_text(encoding="utf-8"))
    parameters = content["components"]["parameters"]
    parameters["radius"]["schema"]["maximum"] = bits
    code, view = f"[0-9a-fA-F]{{{bits // 4}}}", f"[0-9a-fA-F]{{{bits // 4 + 16}}}"
    query = f"[0-9a-fA-F]{{64}}({view}){{1,{8 if looks else 1}}}"  # see `Query.to_bytes`
    parameters["code"]["schema"]["pattern"] = f"^({code}|{query})$"

    async def send(_: Request) -> Answer:
        return Answer(content)

    return send


def _static_file(name: str, media_type: str) -> Callable[[Request], Any]:
    """A file of the page, read once: no address leads to the file system."""
    text = (_WEB / name).read_text("utf-8")
    content = _INCLUDE.sub(lambda found: (_WEB / found[1]).read_text("utf-8"), text)

    async def send(_: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return send
