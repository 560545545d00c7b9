"""Checks every request: the host name it addresses, the page it comes from, and its token.

A page on the internet can make a browser send requests to this machine, and so keep it busy. It
cannot fake the name in Host or Origin, nor Sec-Fetch-Site, and it cannot read a cookie: the guard
checks these.
"""

import ipaddress
import re
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bitgaze.server.answers import Refusal

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# A name or an IPv4 address, or an IPv6 address in brackets; a port.
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9_.-]+))(?::\d{1,5})?", re.ASCII | re.IGNORECASE)
# A request may name the server in its target as well: RFC 9112, 3.2.2.
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
# Requests of the page itself, and addresses that a person typed or bookmarked. Programs send none.
_OWN_SITE = {"same-origin", "none"}
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{16,}")
# The page may load from its own server, and show images from memory. Nothing else.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def check_token(token: str) -> None:
    """Check that a token is hard to guess and can be part of an address.

    Raises:
        ValueError: it is not.
    """
    if not _TOKEN.fullmatch(token):
        raise ValueError(
            f"cannot use a token of length {len(token)}: expected 16 or more characters of a to z, "
            "A to Z, 0 to 9 and - . _ ~, so that nobody can guess it"
        )


class Guard:
    """ASGI middleware that refuses what must not reach the application, and adds headers.

    Args:
        app: the application.
        hosts: names and addresses that the server answers to, without ports. With a token, it
            answers to any address as well: only a name can be made to point elsewhere.
        token: required of every request to /api and /metrics, as `Authorization: Bearer` or as the
            cookie that opening /?token=... sets. None requires nothing.

    The application finds in `request.state.may_read` whether it may tell about the gallery: whether
    there is no token, or the request carries it.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str | None) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        scope = _in_origin_form(scope)
        headers = Headers(scope=scope)
        may_read = self._token is None or self._has_token(scope, headers)
        scope["state"] = {**scope.get("state", {}), "may_read": may_read}
        try:
            answer = self._answer(scope, headers)
        except Refusal as refusal:
            answer = refusal.answer()
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request that the application does not see, or None.

        Raises:
            Refusal: the request fails a check.
        """
        self._check_host(headers)
        path = _route_path(scope)
        self._check_site(scope, path, headers)
        if self._token is None:
            return None
        passed = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if path == "/" and passed is not None:
            if not self._is_token(passed[0]):
                raise _wrong_token()
            answer = RedirectResponse("/", 303)  # keeps the token out of the history
            answer.set_cookie(_cookie_name(scope), self._token, httponly=True, samesite="strict")
            return answer
        if path.startswith(("/api", "/metrics")) and not scope["state"]["may_read"]:
            raise _wrong_token()
        return None

    def _has_token(self, scope: Scope, headers: Headers) -> bool:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(bearer.strip(" "))
        # Another server of this host can set a cookie of the same name for a longer path, which
        # comes first, or for the host's domain: any of them may be ours.
        name = _cookie_name(scope)
        return any(
            self._is_token(cookie_parser(one).get(name, ""))
            for line in headers.getlist("cookie")
            for one in line.split(";")
        )

    def _is_token(self, passed: str) -> bool:
        token = self._token or ""
        return secrets.compare_digest(passed.encode(), token.encode())

    def _check_host(self, headers: Headers) -> None:
        name = headers.get("host", "")
        match = _HOST.fullmatch(name)
        host = (match[1] or match[2]).lower().rstrip(".") if match else ""
        if host in self._hosts or (self._token is not None and _is_address(host)):
            return
        raise Refusal(
            421,
            "wrong_host",
            f"This server does not answer to the name {name!r}. Open the address that "
            "`bitgaze serve` printed.",
        )

    def _check_site(self, scope: Scope, path: str, headers: Headers) -> None:
        """Refuse requests of other sites' pages; a link may open the page, its files, and the docs.

        Browsers send Sec-Fetch-Site to this machine (localhost) and over HTTPS. Elsewhere a token
        is required, whose cookie they keep from other sites.
        """
        is_api = path.startswith("/api") and path != "/api/docs"
        if not is_api and scope["method"] in ("GET", "HEAD"):
            return
        sites = set(headers.getlist("sec-fetch-site"))
        origins = headers.getlist("origin")
        host = headers["host"].lower()
        if sites <= _OWN_SITE and all(_authority(origin) == host for origin in origins):
            return
        page = f"Pages of {origins[0]!r}" if origins else "Pages of other sites"
        raise Refusal(
            403,
            "wrong_origin",
            f"{page} may not use this server; only its own page may. Open this server's address "
            "itself, or call it from a program.",
        )


def _in_origin_form(scope: Scope) -> Scope:
    """The scope of a request as if its target was a path, with the server that it named as Host."""
    target = _ABSOLUTE.fullmatch(scope["path"])
    if target is None:
        return {**scope}
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope,
        "path": target[2] or "/",
        "raw_path": re.sub(rb"^[^/]*//[^/]*", b"", scope["raw_path"]) or b"/",
        "headers": [(b"host", target[1].encode("latin-1", "replace")), *headers],
    }


def _route_path(scope: Scope) -> str:
    """The path that Starlette routes: below that where this application is mounted in another."""
    root = scope.get("root_path", "")
    path: str = scope["path"]
    return path.removeprefix(root) if path.startswith(f"{root}/") else path


def _cookie_name(scope: Scope) -> str:
    return f"bitgaze-{scope['server'][1]}"  # a host's ports share their cookies


def _wrong_token() -> Refusal:
    return Refusal(
        401,
        "wrong_token",
        "This server requires its token. Open the address with ?token=... that "
        "`bitgaze serve` printed, or send the token as `Authorization: Bearer TOKEN`.",
        {"WWW-Authenticate": "Bearer"},
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
