"""`bitgaze serve`: a gallery as a web page, and as a JSON API.

Routes, the files of the page, and facts of the gallery. web/openapi.json describes the API. Needs
the extra `serve`.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bitgaze.errors import GalleryError, ImageError
from bitgaze.gallery.gallery import Gallery
from bitgaze.server.answers import Answer, Refusal, refused
from bitgaze.server.browse import browse
from bitgaze.server.guard import LOOPBACK, Guard, check_token
from bitgaze.server.images import attention_image, small_image
from bitgaze.server.parameters import arguments
from bitgaze.server.search import search, search_code
from bitgaze.server.state import DEFAULT_LIMITS, MOST_HITS, Limits, Serving, serving_of

_WEB = Path(__file__).parent.parent / "web"
_FILES = {
    "/": ("serve.html", "text/html"),
    "/serve.css": ("serve.css", "text/css"),
    "/serve.js": ("serve.js", "text/javascript"),
    "/serve_ask.js": ("serve_ask.js", "text/javascript"),
    "/serve_cards.js": ("serve_cards.js", "text/javascript"),
    "/serve_filters.js": ("serve_filters.js", "text/javascript"),
    "/serve_words.js": ("serve_words.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/api/docs": ("docs.html", "text/html"),
    "/docs.js": ("docs.js", "text/javascript"),
}


def create_app(
    gallery: Gallery,
    *,
    token: str | None = None,
    hosts: Collection[str] = LOOPBACK,
    limits: Limits = DEFAULT_LIMITS,
) -> Starlette:
    """The server as an ASGI application, for uvicorn or another of its kind.

    Args:
        gallery: open for as long as the application runs. All requests share its encoder.
        token: what every request to the API must show, 16 or more letters, digits, "-", ".", "_"
            and "~"; None: nothing. Without one nobody but this machine's own user should be able to
            reach the server.
        hosts: names that the server answers to. A request that names another in its Host header
            comes from a page that was made to look like this one. With a token, addresses
            (192.168.0.7) are always answered.
        limits: of a request.

    Raises:
        FingerprintMismatch: the gallery needs another model than it was opened with.
        ValueError: a token that could be guessed, or has no place in an address.
    """
    if token is not None:
        check_token(token)
    if gallery.fingerprint is not None:
        _ = gallery.encoder  # now: the first search is quick, and a wrong model is met here
    routes = [
        *(Route(address, _file(*what)) for address, what in _FILES.items()),
        Route("/api/openapi.json", _described(gallery.bits)),
        Route("/health", _health),
        Route("/api/gallery", _gallery),
        Route("/api/browse", _browse),
        Route("/api/search", search, methods=["GET", "POST"]),
        Route("/api/search/code", search_code),
        Route("/api/thumbnail", small_image),
        Route("/api/attention", attention_image),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, token=token)],
        exception_handlers={
            kind: refused for kind in (Refusal, HTTPException, ImageError, GalleryError, Exception)
        },
    )
    app.state.serving = Serving(gallery, limits)
    return app


async def _health(request: Request) -> Answer:
    arguments(request)
    serving = serving_of(request)

    def look() -> dict[str, Any]:
        gallery = serving.gallery
        report = None if gallery.fingerprint is None else gallery.encoder.report
        return {
            "status": "ok",
            "items": len(gallery),
            "model": gallery.model_name,
            "fingerprint": gallery.fingerprint,
            "session": None if report is None else asdict(report) | {"summary": str(report)},
        }

    return Answer(await serving.reading(look))


async def _gallery(request: Request) -> Answer:
    arguments(request)
    serving = serving_of(request)

    def look() -> dict[str, Any]:
        gallery = serving.gallery
        return {
            "name": gallery.path.name,
            "items": len(gallery),
            "bits": gallery.bits,
            "model": gallery.model_name,
            "fingerprint": gallery.fingerprint,
            "adaptation": gallery.adaptation,
            "radius": _suggested_radius(gallery),
            "limits": asdict(serving.limits) | {"hits": MOST_HITS},
        }

    return Answer(await serving.reading(look))


async def _browse(request: Request) -> Answer:
    arguments(request)
    serving = serving_of(request)
    return Answer(await serving.reading(lambda: browse(serving.gallery)))


def _suggested_radius(gallery: Gallery) -> int | None:
    try:
        return gallery.radius()
    except (GalleryError, ValueError):  # not calibrated, or with too few images to tell
        return None


def _described(bits: int) -> Callable[[Request], Any]:
    """The description of the API, with the sizes of this gallery's codes."""
    content = json.loads((_WEB / "openapi.json").read_text(encoding="utf-8"))
    parameters = content["components"]["parameters"]
    parameters["radius"]["schema"]["maximum"] = bits
    parameters["code"]["schema"]["pattern"] = f"^[0-9a-fA-F]{{{bits // 4}}}$"

    async def send(_: Request) -> Answer:
        return Answer(content)

    return send


def _file(name: str, kind: str) -> Callable[[Request], Any]:
    """One file of the page. The table of them is fixed: no address leads to the file system."""
    content = (_WEB / name).read_bytes()

    async def send(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send
