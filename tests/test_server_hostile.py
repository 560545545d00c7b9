"""The server under bad uploads, broken connections and many clients; its OpenAPI description."""

import contextlib
import io
import json
import os
import socket
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import httpx2 as httpx
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis import GenerationMode

from bitgaze import Gallery, Item
from bitgaze.cores import available_cores
from bitgaze.gallery import texts
from bitgaze.server import app as app_module
from bitgaze.server import connections
from bitgaze.server.app import create_app
from bitgaze.server.state import Limits
from conftest import PETS, ROOT, smooth_image
from serving import client_of, read_all, refusal, served

EXAMPLES = int(os.environ.get("BITGAZE_EXAMPLES", "100"))


@pytest.fixture(scope="module")
def gallery(pets_gallery):
    return pets_gallery


@pytest.fixture(scope="module")
def client(gallery):
    with client_of(create_app(gallery)) as client:
        yield client


@pytest.fixture(scope="module")
def owl(pets):
    return str(pets / "birds" / "owl.jpg")


@pytest.fixture
def owl_bytes(owl):
    return Path(owl).read_bytes()


# ---- uploads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_uploads_that_are_not_images_are_refused(client, content):
    code, message = refusal(client.post("/api/search", content=content), 422)
    assert code == "not_an_image"
    assert "Try a JPEG" in message


def test_a_truncated_image_is_refused(client, owl_bytes):
    half = owl_bytes[: len(owl_bytes) // 2]
    assert refusal(client.post("/api/search", content=half), 422)[0] == "not_an_image"


def test_other_content_types_are_refused(client):
    for kind in ("application/json", "text/html", "application/x-www-form-urlencoded"):
        answer = client.post("/api/search", content=b"{}", headers={"Content-Type": kind})
        assert refusal(answer, 415)[0] == "wrong_type"


FORM = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nx\r\n'


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"Content-Type": "multipart/form-data"}, b"--b\r\n"),
        (FORM, b""),
        (FORM, b"nothing of the kind"),
        (FORM, b"--b\r\n\r\nx\r\n--b--\r\n"),
        (FORM, PART % (b"file", b"") + b"--b--\r\n"),
        (FORM, PART % (b"image", b'; filename="a"') + b"--b--\r\n"),
        (FORM, 2 * (PART % (b"file", b'; filename="a"')) + b"--b--\r\n"),
        (FORM, PART % (b"file", b'; filename="a"') + PART % (b"k", b"") + b"--b--\r\n"),
        (FORM, b"--b\r\n" + b"X" * 100_000 + b": 1\r\n\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}, b"--b\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=b; charset=no-such"}, b"--c\r\n"),
    ],
)
def test_malformed_forms_are_refused(client, headers, content):
    code, message = refusal(client.post("/api/search", headers=headers, content=content), 400)
    assert code in ("bad_request", "no_file")
    assert message


def png(width, height):
    """A black PNG file of this size, compressed without allocating its pixels."""
    rows = zlib.compress(b"\0" * (1 + (width + 7) // 8) * height, 9)
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)),
        (b"IDAT", rows),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    )


def test_images_of_too_many_pixels_are_not_decoded(client, gallery, monkeypatch):
    def fail(_):
        raise AssertionError("decoded")

    monkeypatch.setattr(gallery, "query", fail)
    code, message = refusal(client.post("/api/search", content=png(8000, 8000)), 413)
    assert code == "too_many_pixels"
    assert "8000 x 8000 pixels, 64 million; the limit is 50 million" in message
    # More than Pillow opens.
    assert refusal(client.post("/api/search", content=png(60_000, 60_000)), 422)


def test_a_jpeg_of_too_many_scans_is_refused(client, owl_bytes):
    stream = io.BytesIO()
    Image.open(io.BytesIO(owl_bytes)).save(stream, "jpeg", progressive=True)
    content = stream.getvalue()
    last, scans = content.rindex(b"\xff\xda"), content.count(b"\xff\xda")
    for count, status in ((99, 200), (101, 422)):
        many = content[:last] + (count - scans) * content[last:-2] + content[last:]
        answer = client.post("/api/search", content=many)
        assert answer.status_code == status
    assert "101" not in refusal(answer, 422)[1]
    # Behind the image, where phones keep films, nobody decodes them.
    assert client.post("/api/search", content=owl_bytes + 101 * b"\xff\xda").status_code == 200


def test_uploads_over_the_limit_are_refused(gallery, owl_bytes):
    limits = Limits(upload_bytes=len(owl_bytes) + 200)
    with client_of(create_app(gallery, limits=limits)) as client:
        assert client.post("/api/search", content=owl_bytes).status_code == 200
        for options in (
            {"content": owl_bytes + b"0" * 201},
            {"content": iter([owl_bytes, b"0" * 201])},  # no Content-Length
            {"files": {"file": ("a.jpg", owl_bytes + b"0" * 200)}},
        ):
            code, message = refusal(client.post("/api/search", **options), 413)
            assert code == "too_large"
            assert "Save a smaller copy" in message


def connected(address, head):
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=60)
    lines = [head, f"Host: {place.netloc}", "Content-Type: image/jpeg"]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def test_a_gigabyte_is_refused_while_others_are_served(gallery, owl_bytes):
    gigabyte, part = 1_000_000_000, bytes(1_000_000)
    with served(gallery) as address, ThreadPoolExecutor(3) as pool:

        def flood(length):
            with connected(address, "POST /api/search HTTP/1.1") as connection:
                connection.sendall(f"\r\n{length}\r\nConnection: close\r\n\r\n".encode())
                for _ in range(gigabyte // len(part)):
                    if length.startswith("Transfer"):
                        connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                    else:
                        connection.sendall(part)
                if length.startswith("Transfer"):
                    connection.sendall(b"0\r\n\r\n")
                return read_all(connection)

        floods = [
            pool.submit(flood, length)
            for length in (f"Content-Length: {gigabyte}", "Transfer-Encoding: chunked")
        ]
        served_meanwhile = 0
        while not all(flooding.done() for flooding in floods):
            assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
            served_meanwhile += 1
        assert served_meanwhile > 0
        for flooding in floods:
            assert flooding.result().startswith(b"HTTP/1.1 413 ")


def test_slow_uploads_time_out_while_others_are_served(gallery, owl_bytes):
    with served(gallery, limits=Limits(upload_seconds=1)) as address:
        slow = [connected(address, "POST /api/search HTTP/1.1") for _ in range(50)]
        for connection in slow:
            connection.sendall(b"\r\nContent-Length: 1000\r\n\r\n" + owl_bytes[:10])
        for _ in range(3):
            assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
        for connection in slow:
            with connection:
                answer = read_all(connection)  # until the server closes the connection
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"too_slow"' in answer


def test_idle_connections_are_closed(gallery, monkeypatch):
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.3)
    with served(gallery) as address:
        place = urlsplit(address)
        request = f"GET /health HTTP/1.1\r\nHost: {place.netloc}\r\n".encode()
        for sent in (b"", request, request + b"\r\n" + request):
            with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
                connection.sendall(sent)
                read_all(connection)  # until the server closes the connection


def test_a_connection_in_use_is_kept(gallery, monkeypatch):
    """Each request starts the idle time again."""
    made = []
    add = connections.Connections.add
    monkeypatch.setattr(
        connections.Connections, "add", lambda all_, new: made.append(new) or add(all_, new)
    )
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 60)
    with served(gallery) as address:
        place = urlsplit(address)
        client = HTTPConnection(place.hostname, place.port, timeout=60)
        before, ports = None, set()
        for _ in range(3):
            client.request("GET", "/health")
            assert client.getresponse().read()
            ports.add(client.sock.getsockname())
            (connection,) = made
            # As if an idle time ended that began before this request.
            connection.loop.call_soon_threadsafe(connection._close_if_idle, before, 0)
            before = connection.cycle
        client.close()
        assert len(ports) == 1


def idle(address, sent=b"GET / HTTP/1.1\r\n"):
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=60)
    connection.sendall(sent)
    return connection


UPLOAD = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n", UPLOAD])
def test_idle_connections_make_room_for_the_newest(gallery, owl_bytes, sent, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PER_CLIENT", 30)
    with served(gallery) as address, contextlib.ExitStack() as stack:
        held = [stack.enter_context(idle(address, sent)) for _ in range(100)]
        for _ in range(3):
            assert httpx.get(f"{address}/health").status_code == 200
            assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
        for connection in held[:60]:  # the oldest
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        held[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            held[-1].recv(1)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, 127.0.0.2 is not configured")
def test_many_clients_leave_room_for_another(gallery, monkeypatch):
    monkeypatch.setattr(connections, "MAX_PER_CLIENT", 30)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 50)
    with served(gallery) as address, contextlib.ExitStack() as stack:
        place = urlsplit(address)
        for n in range(100):
            source = (f"127.0.0.{2 + n % 3}", 0)
            stack.enter_context(
                socket.create_connection((place.hostname, place.port), 60, source_address=source)
            )
        with httpx.Client(base_url=address) as client:
            for _ in range(3):
                assert client.get("/health").status_code == 200


def test_an_answer_that_nobody_takes_is_dropped(gallery, monkeypatch):
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.3)
    dropped, discard = threading.Event(), connections.Connections.discard
    monkeypatch.setattr(
        connections.Connections, "discard", lambda all_, old: dropped.set() or discard(all_, old)
    )
    monkeypatch.setattr(app_module, "asdict", lambda _: {"padding": "x" * 30_000_000})
    with served(gallery) as address:
        place = urlsplit(address)
        request = f"GET /health HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode()
        with idle(address, request) as connection:
            assert dropped.wait(60)
            with contextlib.suppress(ConnectionResetError):
                assert len(read_all(connection)) < 30_000_000


def test_work_for_a_client_that_left_never_starts(pets_gallery, owl_bytes, monkeypatch):
    with Gallery(pets_gallery.path, encoder=pets_gallery.encoder, create=False) as gallery:
        encode, calls, go = gallery.query, [], threading.Event()

        def slow(image, region):
            calls.append(image)
            assert go.wait(60)
            return encode(image, region=region)

        monkeypatch.setattr(gallery, "query", slow)
        with served(gallery) as address:
            head = f"POST /api/search HTTP/1.1\r\nHost: {urlsplit(address).netloc}\r\n"
            request = f"{head}Content-Length: {len(owl_bytes)}\r\n\r\n".encode() + owl_bytes
            for _ in range(60):
                idle(address, request).close()
            for _ in range(3):
                assert httpx.get(f"{address}/health").status_code == 200
            go.set()
            assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
        assert len(calls) <= 2 * available_cores() + 1


def test_broken_uploads_log_nothing(gallery, owl_bytes, capfd):
    with served(gallery) as address:
        for _ in range(5):
            with connected(address, "POST /api/search HTTP/1.1") as connection:
                connection.sendall(b"\r\nContent-Length: 1000\r\n\r\n" + owl_bytes[:10])
        assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n"
        b"Connection: close\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n--xy",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ],
)
def test_malformed_requests_log_nothing_and_stop_nothing(gallery, request_bytes, capfd):
    with served(gallery) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
            try:
                connection.sendall(request_bytes)
                connection.shutdown(socket.SHUT_WR)
                answer = read_all(connection)
            except OSError:  # the server has closed the connection
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 5")
        assert httpx.get(f"{address}/health").status_code == 200
    assert capfd.readouterr() == ("", "")


# ---- many at once -------------------------------------------------------------------------------


def test_64_clients_share_one_encoder(gallery, pets, monkeypatch):
    images = [(pets / name).read_bytes() for name in PETS]
    expected = [[hit.key for hit in gallery.search(content, 5)] for content in images]
    encode, lock = gallery.query, threading.Lock()
    now = {"running": 0, "most": 0}

    def counted(image, region):
        with lock:
            now["running"] += 1
            now["most"] = max(now["most"], now["running"])
        try:
            return encode(image, region=region)
        finally:
            with lock:
                now["running"] -= 1

    monkeypatch.setattr(gallery, "query", counted)
    start = threading.Barrier(64)

    def ask(client_number):
        start.wait()
        with httpx.Client(base_url=address, timeout=60) as client:
            for n in range(3):
                which = (client_number + n) % len(images)
                answer = client.post("/api/search", content=images[which], params={"k": 5})
                assert answer.status_code == 200, answer.text
                assert [hit["key"] for hit in answer.json()["hits"]] == expected[which]
        return True

    with served(gallery) as address, ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(64)))
    assert 1 <= now["most"] <= available_cores()


# ---- slow conditions -----------------------------------------------------------------------------


def code_search(where):
    return {"url": "/api/search/code", "params": {"code": "0" * 32, "where": json.dumps(where)}}


@contextlib.contextmanager
def slow_reading(gallery, monkeypatch):
    """Makes a comparison with a pattern last until the event is set, with the lock held."""
    started, done = threading.Event(), threading.Event()
    like = texts.like

    def slow(pattern):
        started.set()
        assert done.wait(60)
        return like(pattern)

    monkeypatch.setattr(texts, "like", slow)
    try:
        yield started, done
    finally:
        done.set()


def test_slow_fields_and_conditions_are_limited(gallery):
    app = create_app(gallery)
    with client_of(app) as client:
        names = ["camera", "lens", "latitude", "longitude"]  # known, and no item here has them
        patterns = {name: {"like": "%a%"} for name in (*names, "@key")}
        code, message = refusal(client.get(**code_search(patterns)), 429)
        assert code == "too_many_conditions"
        assert "where has 5 fields" in message
        assert "the limit is 4" in message
        where = {"where": json.dumps(patterns)}
        assert refusal(client.post("/api/search", params=where), 429) == (code, message)
        ranges = {**patterns, "@key": {">": "a"}}
        assert "where has 5 fields" in refusal(client.get(**code_search(ranges)), 429)[1]
        assert client.get(**code_search({**patterns, "@key": "a"})).status_code == 200
        every = {"<": 1, "<=": 1, ">": 1, ">=": 1, "!=": 1, "in": [1]}
        many = dict.fromkeys((*names, "truncated"), every)
        assert client.get(**code_search(many)).status_code == 200
        many |= {"rank": {"<": 1, "<=": 1, "like": ""}}
        message = refusal(client.get(**code_search(many)), 400)[1]
        assert "where has 33 conditions; the limit is 32" in message
        code, message = refusal(client.get(**code_search({"albun": "x"})), 409)
        assert code == "bad_condition"
        assert "no item has a field 'albun'; fields are" in message


@pytest.fixture
def rare_fields(tmp_path):
    """A gallery of two chunks with more fields than it keeps as columns."""
    with Gallery(tmp_path / "rare.bitgaze", bits=128) as gallery:
        code = np.zeros(16, np.uint8)
        gallery.upsert(
            Item(f"k{n}", code, {f"f{k}": n for k in range(80)} if n % 500 == 7 else {"n": n})
            for n in range(5000)
        )
        assert len(gallery.unread_fields(*(f"f{k}" for k in range(80)))) == 80 - 62  # and the keys
        yield gallery


def test_fields_without_a_column_are_slow_until_they_are_read(rare_fields):
    rare = sorted(rare_fields.unread_fields(*(f"f{k}" for k in range(80)), "unknown"))
    assert "unknown" in rare
    common = next(f"f{k}" for k in range(80) if f"f{k}" not in rare)
    with client_of(create_app(rare_fields)) as client:
        many = dict.fromkeys(rare[:5], 3007)
        code, message = refusal(client.get(**code_search(many)), 429)
        assert code == "too_many_conditions"
        assert "where has 5 fields" in message
        assert "too rare to be kept" in message
        mixed = {rare[0]: 3007, rare[1]: 3007, common: {"like": "x"}, "n": {"like": "x"}}
        mixed["@key"] = {">": "a"}
        assert "where has 5 fields" in refusal(client.get(**code_search(mixed)), 429)[1]
        found = client.get(**code_search(dict.fromkeys(rare[:4], 3007) | {"unknown": None}))
        assert refusal(found, 429)
        found = client.get(**code_search(dict.fromkeys(rare[:4], 3007))).json()["hits"]
        assert [hit["key"] for hit in found] == ["k3007"]
        assert rare_fields.unread_fields(*rare[:4]) == set()
        found = client.get(**code_search(many)).json()["hits"]  # one more than is known by now
        assert [hit["key"] for hit in found] == ["k3007"]


def test_fields_are_read_while_others_use_the_gallery(rare_fields, monkeypatch):
    """Nobody waits for more than the items of one chunk."""
    between = []
    sleep = time.sleep

    def look(seconds):
        with ThreadPoolExecutor(1) as pool:
            between.append(pool.submit(len, rare_fields).result(60))
        sleep(seconds)

    monkeypatch.setattr("bitgaze.gallery.store.time.sleep", look)
    rare_fields.read_fields("unknown")
    assert between == [5000, 5000]
    assert rare_fields.unread_fields("unknown") == set()
    rare_fields.set_metadata("k4999", {"unknown": 1})
    assert [
        hit.key for hit in rare_fields.search_code(np.zeros(16, np.uint8), where={"unknown": 1})
    ]


def jpeg2000(size, **options):
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "JPEG2000", **options)
    return stream.getvalue()


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}])
def test_large_jpeg_2000_is_refused(gallery, options):
    """Its decoder lets no other thread run."""
    with client_of(create_app(gallery)) as client:
        for size, padding in (((1010, 1000), 0), ((60, 40), 300_000)):
            content = jpeg2000(size, **options) + bytes(padding)
            code, message = refusal(client.post("/api/search", content=content), 422)
            assert code == "not_an_image"
            assert f"a JPEG 2000 of {size[0]} x {size[1]} pixels in {len(content)} by" in message
        answer = client.post("/api/search", content=jpeg2000((1000, 1000), **options))
        assert answer.status_code == 200


def test_large_jpeg_2000_of_items_is_not_shown(tmp_path, encoder):
    (tmp_path / "images").mkdir()
    for name, size in (("large", (1300, 1200)), ("small", (60, 40))):
        (tmp_path / "images" / f"{name}.jp2").write_bytes(jpeg2000(size))
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path / "images")
        with client_of(create_app(gallery)) as client:
            large, small = (
                client.get("/api/thumbnail", params={"key": str(tmp_path / "images" / name)})
                for name in ("large.jp2", "small.jp2")
            )
    assert small.status_code == 200
    assert "a JPEG 2000 of 1300 x 1200" in refusal(large, 404)[1]


def test_health_does_not_wait_for_a_slow_search(pets_gallery, monkeypatch):
    with Gallery(pets_gallery.path, encoder=pets_gallery.encoder, create=False) as gallery:
        with (
            slow_reading(gallery, monkeypatch) as (started, done),
            client_of(create_app(gallery)) as client,
            ThreadPoolExecutor(16) as pool,
        ):
            like = {"like": "%"}
            searches = [pool.submit(client.get, **code_search({"kind": like})) for _ in range(10)]
            assert started.wait(60)
            for _ in range(20):
                assert client.get("/health").json()["items"] == 5
            refused = [search.result() for search in searches if search.done()]
            done.set()
            answers = [search.result() for search in searches]
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(200), statuses.count(503)) == (9, 1)
        (busy,) = [answer for answer in answers if answer.status_code == 503]
        assert refusal(busy, 503)[0] == "busy"
        assert int(busy.headers["retry-after"]) > 0
        assert all(answer.status_code == 503 for answer in refused)


# ---- the OpenAPI description --------------------------------------------------------------------


def test_openapi_describes_every_route(gallery):
    described = json.loads((ROOT / "runtime/bitgaze/web/openapi.json").read_text())["paths"]
    routes = {route.path: route.methods for route in create_app(gallery).routes}
    api = {
        path: methods - {"HEAD"}
        for path, methods in routes.items()
        if (path.startswith("/api") or path in ("/health", "/metrics"))
        and path not in ("/api/docs", "/api/openapi.json")
    }
    assert {path: {m.upper() for m in methods} for path, methods in described.items()} == api


def jpeg(seed):
    buffer = io.BytesIO()
    smooth_image(seed).save(buffer, "jpeg")
    return buffer.getvalue()


IMAGES = st.integers(0, 5).map(jpeg)
for kind in ("application/octet-stream", "image/jpeg"):
    schemathesis.openapi.media_type(kind, IMAGES)


edges = st.lists(st.integers(0, 10_000), min_size=2, max_size=2, unique=True).map(sorted)
regions = st.tuples(edges, edges).map(
    lambda xy: ",".join(str(edge / 10_000) for pair in zip(*xy, strict=True) for edge in pair)
)
schemathesis.openapi.format("region", regions)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_follows_its_description(gallery, mode):
    app = create_app(gallery, hosts=["testserver"])
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 14

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of([one.as_strategy(generation_mode=mode) for one in operations]))
    def ask(case):
        case.call_and_validate()

    ask()
