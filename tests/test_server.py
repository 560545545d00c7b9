"""The server as programs see it: answers, refusals, and what hostile requests get."""

import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
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
from starlette.testclient import TestClient

from bitgaze import Gallery, GalleryError, server_run
from bitgaze.cores import available_cores
from bitgaze.server import create_app
from bitgaze.server_state import Limits
from conftest import ROOT, picture
from serving import served

EXAMPLES = int(os.environ.get("BITGAZE_EXAMPLES", "100"))
TOKEN = "a-token-that-nobody-guesses"
CHOSEN = ("birds/owl.jpg", "birds/duck.jpg", "fish/goldfish.jpg", "fish/clownfish.jpg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    folder = tmp_path_factory.mktemp("serve")
    for name in CHOSEN:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(examples / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def gallery(folder, encoder):
    """Four pictures in two folders, with metadata, and one that was added by hand."""
    with Gallery(folder / "pets.bitgaze", encoder=encoder) as gallery:
        gallery.sync(folder)
        for rank, name in enumerate(CHOSEN):
            kind = name.partition("/")[0]
            gallery.set_metadata(str(folder / name), {"kind": kind, "rank": rank})
        gallery.add("by hand", picture(1))
        yield gallery


@pytest.fixture(scope="module")
def client(gallery):
    with client_of(create_app(gallery)) as client:
        yield client


def client_of(app, **options):
    # Without raising: what a test sees is what a client would.
    return TestClient(app, base_url="http://localhost", raise_server_exceptions=False, **options)


@pytest.fixture(scope="module")
def owl(folder):
    return str(folder / "birds" / "owl.jpg")


@pytest.fixture
def owl_bytes(owl):
    return Path(owl).read_bytes()


def refusal(answer, status):
    """The code and message of an answer that is a refusal, in the one form there is."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert list(answer.json()) == ["error"]
    assert set(error) == {"code", "message"}
    return error["code"], error["message"]


# ---- what is answered ---------------------------------------------------------------------------


def test_a_picture_finds_what_the_gallery_finds(client, gallery, owl_bytes, folder):
    answer = client.post("/api/search", content=owl_bytes, params={"k": 3})
    assert answer.status_code == 200
    found = answer.json()
    expected = gallery.search(owl_bytes, 3)
    assert [hit["key"] for hit in found["hits"]] == [hit.key for hit in expected]
    first = found["hits"][0]
    assert first == {
        "key": str(folder / "birds" / "owl.jpg"),
        "name": "owl.jpg",
        "has_picture": True,
        "distance": 0,
        "probability": expected[0].probability,
        "duplicate": expected[0].duplicate,
        "metadata": {"kind": "birds", "rank": 0},
    }
    assert found["code"] == gallery.encode([owl_bytes]).codes[0].tobytes().hex()
    assert found["bits"] == 128
    assert "picture" not in found


def test_a_form_does_the_same(client, owl_bytes):
    raw = client.post("/api/search", content=owl_bytes).json()
    form = client.post("/api/search", files={"file": ("owl.jpg", owl_bytes, "image/jpeg")})
    assert form.json() == raw
    assert client.post("/api/search", content=owl_bytes, headers={"content-type": ""}).json() == raw


def test_the_picture_and_its_attention_come_back_when_asked_for(client, owl_bytes):
    found = client.post("/api/search", content=owl_bytes, params={"pictures": "true"}).json()
    assert found["picture"].startswith("data:image/jpeg;base64,")
    assert found["attention"].startswith("data:image/jpeg;base64,")
    assert found["picture"] != found["attention"]


def test_a_key_and_a_code_find_the_same(client, gallery, owl):
    by_key = client.get("/api/search", params={"key": owl, "k": 2}).json()
    assert [hit["key"] for hit in by_key["hits"]] == [
        hit.key for hit in gallery.search(owl, 2, exclude_self=True)
    ]
    assert by_key["item"] == {"key": owl, "name": "owl.jpg", "has_picture": True}
    code = gallery.get(owl).code.tobytes().hex()
    by_code = client.get("/api/search/code", params={"code": code, "k": 3}).json()
    assert by_code["hits"][0]["key"] == owl
    assert by_code["hits"][1:] == by_key["hits"]


def test_radius_and_where(client, gallery, owl, folder):
    params = {"key": owl, "where": json.dumps({"kind": "fish"})}
    hits = client.get("/api/search", params=params).json()["hits"]
    assert {hit["key"] for hit in hits} == {
        str(folder / name) for name in CHOSEN if name.startswith("fish")
    }
    nearest = min(hit["distance"] for hit in hits)
    hits = client.get("/api/search", params={**params, "radius": nearest}).json()["hits"]
    assert [hit["distance"] for hit in hits] == [nearest]
    assert client.get("/api/search", params={**params, "radius": 0}).json()["hits"] == []


def test_facts_of_the_gallery(client, gallery):
    facts = client.get("/api/gallery").json()
    assert facts == {
        "name": "pets.bitgaze",
        "items": 5,
        "bits": 128,
        "model": gallery.model_name,
        "fingerprint": gallery.fingerprint,
        "adaptation": None,
        "radius": gallery.radius(),
        "limits": {
            "upload_bytes": 32_000_000,
            "upload_seconds": 60,
            "pixels": 50_000_000,
            "hits": 200,
        },
    }


def test_what_there_is_to_start_from(client, folder):
    found = client.get("/api/browse").json()
    assert {item["name"] for item in found["items"]} == {Path(name).name for name in CHOSEN}
    assert found["folders"] == [
        {"path": str(folder / name), "name": name} for name in ("birds", "fish")
    ]
    assert found["fields"] == [
        {"name": "kind", "kind": "choice", "values": ["birds", "fish"]},
        {"name": "rank", "kind": "choice", "values": [0, 1, 2, 3]},
    ]
    assert found["sampled"] == 5


def test_fields_of_many_values(tmp_path):
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        for n in range(40):
            metadata = {"year": 1980 + n, "title": f"t{n}", "tags": ["a", n % 2], "none": None}
            gallery.add_code(f"k{n}", np.full(8, n, np.uint8), metadata)
        with client_of(create_app(gallery)) as client:
            found = client.get("/api/browse").json()
    assert found["fields"] == [
        {"name": "tags", "kind": "choice", "values": [0, 1, "a"]},
        {"name": "title", "kind": "text", "values": []},
        {"name": "year", "kind": "number", "values": [1980, 2019]},
    ]
    assert found["folders"] == []
    assert len(found["items"]) <= 24


def test_health_is_the_report_of_the_session_itself(client, gallery):
    found = client.get("/health").json()
    assert found["status"] == "ok"
    assert found["items"] == 5
    assert tuple(found["session"]["providers"]) == gallery.encoder.report.providers
    assert found["session"]["nodes"] == gallery.encoder.report.nodes


def test_health_of_a_gallery_that_cannot_be_read(folder, encoder, tmp_path):
    gallery = Gallery(tmp_path / "gone.bitgaze", encoder=encoder)
    with client_of(create_app(gallery)) as client:
        gallery.close()
        code, _ = refusal(client.get("/health"), 503)
        assert code == "gallery_unavailable"


def test_metadata_that_no_encoding_takes(tmp_path):
    metadata = {"half": "\ud800", "long": 10**400, "deep": [{"a": None}]}
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        for key in ("a", "b"):
            gallery.add_code(key, np.zeros(8, np.uint8), metadata)
        with client_of(create_app(gallery)) as client:
            (hit,) = client.get("/api/search", params={"key": "a"}).json()["hits"]
            assert hit["metadata"] == metadata
            found = client.get("/api/browse").json()
    assert [field["name"] for field in found["fields"]] == ["half", "long"]


def test_an_empty_gallery_and_one_of_codes(tmp_path, encoder, owl_bytes):
    with (
        Gallery(tmp_path / "empty.bitgaze", encoder=encoder) as empty,
        client_of(create_app(empty)) as client,
    ):
        assert client.post("/api/search", content=owl_bytes).json()["hits"] == []
        assert client.get("/api/browse").json() == {
            "items": [],
            "folders": [],
            "fields": [],
            "sampled": 0,
        }
    with Gallery(tmp_path / "own.bitgaze", bits=64) as own:
        own.add_code("a", np.zeros(8, np.uint8))
        own.add_code("b", np.ones(8, np.uint8))
        with client_of(create_app(own)) as client:
            (hit,) = client.get("/api/search", params={"key": "a"}).json()["hits"]
            assert (hit["key"], hit["distance"], hit["probability"]) == ("b", 8, None)
            assert refusal(client.post("/api/search", content=owl_bytes), 409)[0] == "no_model"
            assert refusal(client.get("/api/attention?key=a"), 409)[0] == "no_model"
            assert client.get("/health").json()["session"] is None
            assert client.get("/api/gallery").json()["fingerprint"] is None


def test_thumbnails(client, owl):
    answer = client.get("/api/thumbnail", params={"key": owl, "size": 100})
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"].startswith("private")
    image = Image.open(io.BytesIO(answer.content))
    assert max(image.size) == 100
    again = client.get(
        "/api/thumbnail",
        params={"key": owl, "size": 100},
        headers={"If-None-Match": answer.headers["etag"]},
    )
    assert again.status_code == 304
    assert again.content == b""
    other = client.get("/api/thumbnail", params={"key": owl})
    assert other.headers["etag"] != answer.headers["etag"]
    heat = client.get("/api/attention", params={"key": owl, "size": 100})
    assert Image.open(io.BytesIO(heat.content)).size == image.size
    assert heat.content != answer.content


def test_a_thumbnail_is_upright(tmp_path, encoder):
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    picture(0, (64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    with Gallery(tmp_path / "turned.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path)
        with client_of(create_app(gallery)) as client:
            answer = client.get("/api/thumbnail", params={"key": str(tmp_path / "turned.jpg")})
    assert Image.open(io.BytesIO(answer.content)).size == (32, 64)


def test_what_has_no_picture_to_show(client, tmp_path, encoder):
    code, message = refusal(client.get("/api/thumbnail?key=by hand"), 404)
    assert code == "no_picture"
    assert "by hand" in message
    assert refusal(client.get("/api/thumbnail?key=nobody"), 404)[0] == "no_such_item"
    for name in ("gone.png", "pipe.png", "broken.png"):
        picture(0).save(tmp_path / name)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path)
        (tmp_path / "gone.png").unlink()
        (tmp_path / "pipe.png").unlink()
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "broken.png").write_bytes(b"no picture")
        with client_of(create_app(gallery)) as client:
            for name in ("gone.png", "pipe.png", "broken.png"):
                for what in ("thumbnail", "attention"):
                    answer = client.get(f"/api/{what}", params={"key": str(tmp_path / name)})
                    assert refusal(answer, 404)[0] == "no_picture"


def test_the_page_and_its_parts(client):
    for path, kind in (
        ("/", "text/html"),
        ("/serve.css", "text/css"),
        ("/serve.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
        ("/api/docs", "text/html"),
        ("/docs.js", "text/javascript"),
        ("/api/openapi.json", "application/json"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in answer.headers
        # Nothing is loaded from elsewhere.
        assert not re.search(r"(src|href)=\"(https?:)?//", answer.text)


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "found"),
    [
        ({"k": "0"}, "k is '0', expected an integer, 1 to 200"),
        ({"k": "1e3"}, "k is '1e3'"),
        ({"k": "٣"}, "k is '٣'"),
        ({"radius": "129"}, "expected an integer, 0 to 128"),
        ({"radius": "-1"}, "radius is '-1'"),
        ({"where": "{"}, "where is not a JSON object"),
        ({"where": "[" * 20_000}, "where is not a JSON object"),
        ({"where": '{"year": {"near": 3}}'}, "operator 'near'"),
        ({"where": '{"year": {">": null}}'}, "expected a number or a text"),
        ({"K": "3"}, "'K' means nothing here; expected key, k, radius, where"),
    ],
)
def test_arguments_that_mean_nothing(client, owl, params, found):
    code, message = refusal(client.get("/api/search", params={"key": owl, **params}), 400)
    assert code == "bad_argument"
    assert found in message


@pytest.mark.parametrize("path", ["search", "search/code", "thumbnail", "attention"])
def test_a_search_for_nothing(client, path):
    code, message = refusal(client.get(f"/api/{path}"), 400)
    assert code == "bad_argument"
    assert "is missing" in message


def test_codes_that_are_none(client):
    for code in ("", "ab", "g" * 32, "a" * 34, "ab " * 10 + "ab"):
        answer = client.get("/api/search/code", params={"code": code})
        assert "expected 32 hexadecimal digits" in refusal(answer, 400)[1]
    assert "twice" in refusal(client.get("/api/search?k=1&k=2"), 400)[1]
    assert "true or false" in refusal(client.post("/api/search?pictures=yes"), 400)[1]


def test_what_is_not_there(client):
    for path in ("/api", "/api/", "/nothing", "/serve.html", "/web/serve.js"):
        assert refusal(client.get(path), 404)[0] == "no_such_page"
    answer = client.delete("/api/search")
    assert refusal(answer, 405)[0] == "wrong_method"
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "/serve.css/../../server.py",
        "/api/thumbnail?key=/etc/passwd",
        "/api/thumbnail?key=../../etc/passwd",
        "/api/thumbnail?key=%00",
        "/api/thumbnail?key=file:///etc/passwd",
        "/api/attention?key=/etc/passwd",
        "/api/search?key=/etc/passwd",
        "/api/search?key=%ff%fe",
    ],
)
def test_no_path_leads_to_the_file_system(gallery, path):
    with served(gallery) as address:
        # By hand: a client would tidy the path.
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer


def test_a_key_is_never_a_path(client, folder, examples):
    """A picture that lies there, but is not in the gallery."""
    outside = str(examples / "birds" / "osprey.jpg")
    assert Path(outside).exists()
    for what in ("search", "thumbnail", "attention"):
        answer = client.get(f"/api/{what}", params={"key": outside})
        assert refusal(answer, 404)[0] == "no_such_item"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "", "["],
)
def test_a_name_that_is_not_the_servers(client, host):
    for path in ("/", "/health", "/api/gallery"):
        code, message = refusal(client.get(path, headers={"Host": host}), 421)
        assert code == "wrong_host"
        assert "Open the address that it printed" in message


def test_names_that_are(client):
    for host in ("localhost", "LOCALHOST:8642", "127.0.0.1:80", "[::1]:8642", "localhost."):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    # An address that is not one of this machine's own: only with a token.
    assert refusal(client.get("/health", headers={"Host": "192.168.0.7"}), 421)


def test_other_pages_may_not_post(client, owl_bytes):
    for origin in ("http://evil.example", "null", "http://localhost:1", "http://["):
        answer = client.post("/api/search", content=owl_bytes, headers={"Origin": origin})
        assert refusal(answer, 403)[0] == "wrong_origin"
    own = {"Origin": "http://localhost"}
    assert client.post("/api/search", content=owl_bytes, headers=own).status_code == 200


def test_the_token(gallery, owl_bytes):
    with client_of(create_app(gallery, token=TOKEN, hosts=["photos.lan"])) as client:
        client.base_url = "http://photos.lan"
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("/api/gallery", "/api/openapi.json", "/api/docs", "/api/nothing"):
                answer = client.get(path, headers=headers)
                assert refusal(answer, 401)[0] == "wrong_token"
                assert answer.headers["www-authenticate"] == "Bearer"
            assert client.post("/api/search", content=owl_bytes, headers=headers).status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/api/gallery", headers=bearer).status_code == 200
        # The page itself holds nothing, and health is for who watches the server.
        assert client.get("/").status_code == 200
        assert client.get("/health").status_code == 200
        # An address cannot be made to lead elsewhere, as a name can.
        assert client.get("/health", headers={"Host": "192.168.0.7:80"}).status_code == 200
        assert refusal(client.get("/health", headers={"Host": "evil.example"}), 421)

        assert refusal(client.get("/?token=wrong"), 401)
        assert client.get("/api/gallery").status_code == 401
        opened = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "HttpOnly" in opened.headers["set-cookie"]
        assert "samesite=strict" in opened.headers["set-cookie"].lower()
        assert client.get("/api/gallery").status_code == 200


# ---- uploads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\xff\xd8\xff", b"GIF89a", b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_what_is_no_picture(client, content):
    code, message = refusal(client.post("/api/search", content=content), 422)
    assert code == "not_a_picture"
    assert "Take a JPEG" in message


def test_a_picture_that_breaks_off(client, owl_bytes):
    half = owl_bytes[: len(owl_bytes) // 2]
    assert refusal(client.post("/api/search", content=half), 422)[0] == "not_a_picture"


def test_types_that_no_picture_has(client):
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
        (FORM, PART % (b"picture", b'; filename="a"') + b"--b--\r\n"),
        (FORM, 2 * (PART % (b"file", b'; filename="a"')) + b"--b--\r\n"),
        (FORM, PART % (b"file", b'; filename="a"') + PART % (b"k", b"") + b"--b--\r\n"),
        (FORM, b"--b\r\n" + b"X" * 100_000 + b": 1\r\n\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=" + "b" * 5000}, b"--b\r\n"),
        ({"Content-Type": "multipart/form-data; boundary=b; charset=no-such"}, b"--c\r\n"),
    ],
)
def test_forms_that_are_none(client, headers, content):
    code, message = refusal(client.post("/api/search", headers=headers, content=content), 400)
    assert code in ("bad_request", "no_file")
    assert message


def png(width, height):
    """A PNG file of so many pixels, all black, without making them."""
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


def test_pictures_of_too_many_pixels(client, gallery, monkeypatch):
    def never(_):
        raise AssertionError("decoded")

    monkeypatch.setattr(gallery, "encode", never)
    code, message = refusal(client.post("/api/search", content=png(8000, 8000)), 413)
    assert code == "too_many_pixels"
    assert "8000 x 8000 pixels, 64 million; the limit is 50 million" in message
    # Beyond what Pillow opens at all.
    assert refusal(client.post("/api/search", content=png(60_000, 60_000)), 422)


def test_a_jpeg_that_is_made_to_keep_a_computer_busy(client, owl_bytes):
    content = owl_bytes + 101 * b"\xff\xda"
    assert "101" not in refusal(client.post("/api/search", content=content), 422)[1]
    assert client.post("/api/search", content=owl_bytes + 99 * b"\xff\xda").status_code == 200


def test_an_upload_that_is_too_large(gallery, owl_bytes):
    limits = Limits(upload_bytes=len(owl_bytes) + 200)
    with client_of(create_app(gallery, limits=limits)) as client:
        assert client.post("/api/search", content=owl_bytes).status_code == 200
        for options in (
            {"content": owl_bytes + b"0" * 201},
            {"content": iter([owl_bytes, b"0" * 201])},  # its length is not announced
            {"files": {"file": ("a.jpg", owl_bytes + b"0" * 200)}},
        ):
            code, message = refusal(client.post("/api/search", **options), 413)
            assert code == "too_large"
            assert "Save a smaller copy" in message


def read_all(connection):
    parts = []
    while part := connection.recv(65536):
        parts.append(part)
    return b"".join(parts)


def connected(address, head):
    place = urlsplit(address)
    connection = socket.create_connection((place.hostname, place.port), timeout=60)
    lines = [head, f"Host: {place.netloc}", "Content-Type: image/jpeg"]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def test_a_gigabyte_is_refused_and_others_are_served_meanwhile(gallery, owl_bytes):
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


def test_slow_uploads_end_and_others_are_served_meanwhile(gallery, owl_bytes):
    with served(gallery, limits=Limits(upload_seconds=1)) as address:
        slow = [connected(address, "POST /api/search HTTP/1.1") for _ in range(50)]
        for connection in slow:
            connection.sendall(b"\r\nContent-Length: 1000\r\n\r\n" + owl_bytes[:10])
        for _ in range(3):
            assert httpx.post(f"{address}/api/search", content=owl_bytes).status_code == 200
        for connection in slow:
            with connection:
                answer = read_all(connection)  # the server ends the connection
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b'"too_slow"' in answer


def test_connections_on_which_nothing_begins_end(gallery, monkeypatch):
    monkeypatch.setattr(server_run, "_HEAD_SECONDS", 0.3)
    with served(gallery) as address:
        place = urlsplit(address)
        request = f"GET /health HTTP/1.1\r\nHost: {place.netloc}\r\n".encode()
        for begun in (b"", request, request + b"\r\n" + request):
            with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
                connection.sendall(begun)
                read_all(connection)  # the server ends the connection
        with httpx.Client(base_url=address) as client:
            for _ in range(3):
                assert client.get("/health").status_code == 200
                time.sleep(0.2)


def test_uploads_that_break_off(gallery, owl_bytes, capfd):
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
def test_requests_that_are_not_http(gallery, request_bytes, capfd):
    with served(gallery) as address:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=60) as connection:
            try:
                connection.sendall(request_bytes)
                connection.shutdown(socket.SHUT_WR)
                answer = read_all(connection)
            except OSError:  # the server has ended it already
                answer = b""
        assert not answer.startswith(b"HTTP/1.1 5")
        assert httpx.get(f"{address}/health").status_code == 200
    assert capfd.readouterr() == ("", "")


# ---- many at once -------------------------------------------------------------------------------


def test_64_clients_share_one_encoder(gallery, folder, monkeypatch):
    pictures = [(folder / name).read_bytes() for name in CHOSEN]
    expected = [[hit.key for hit in gallery.search(content, 5)] for content in pictures]
    encode, lock = gallery.encode, threading.Lock()
    now = {"running": 0, "most": 0}

    def counted(sources):
        with lock:
            now["running"] += 1
            now["most"] = max(now["most"], now["running"])
        try:
            return encode(sources)
        finally:
            with lock:
                now["running"] -= 1

    monkeypatch.setattr(gallery, "encode", counted)
    start = threading.Barrier(64)

    def ask(client_number):
        start.wait()
        with httpx.Client(base_url=address, timeout=60) as client:
            for n in range(3):
                which = (client_number + n) % len(pictures)
                answer = client.post("/api/search", content=pictures[which], params={"k": 5})
                assert answer.status_code == 200, answer.text
                assert [hit["key"] for hit in answer.json()["hits"]] == expected[which]
        return True

    with served(gallery) as address, ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(64)))
    assert 1 <= now["most"] <= available_cores()


# ---- what the API says of itself ----------------------------------------------------------------


def test_the_description_names_every_address(gallery):
    described = json.loads((ROOT / "runtime/bitgaze/web/openapi.json").read_text())["paths"]
    routes = {route.path: route.methods for route in create_app(gallery).routes}
    api = {
        path: methods - {"HEAD"}
        for path, methods in routes.items()
        if (path.startswith("/api") or path == "/health")
        and path not in ("/api/docs", "/api/openapi.json")
    }
    assert {path: {m.upper() for m in methods} for path, methods in described.items()} == api


def jpeg(seed):
    buffer = io.BytesIO()
    picture(seed).save(buffer, "jpeg")
    return buffer.getvalue()


PICTURES = st.integers(0, 5).map(jpeg)
for kind in ("application/octet-stream", "image/jpeg"):
    schemathesis.openapi.media_type(kind, PICTURES)


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_api_does_what_it_says(gallery, mode):
    app = create_app(gallery, hosts=["testserver"])
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == 8

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of([one.as_strategy(generation_mode=mode) for one in operations]))
    def ask(case):
        case.call_and_validate()

    ask()


# ---- the command --------------------------------------------------------------------------------


def started(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "bitgaze.cli", "serve", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_the_command_says_its_address_and_nothing_else(gallery, owl_bytes):
    server = started("-g", gallery.path, "--port", 0)
    try:
        assert server.stdout.readline() == f"{gallery.path}: 5 pictures\n"
        address = re.fullmatch(
            r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)\n", server.stdout.readline()
        )[1]
        assert httpx.post(f"{address}api/search", content=owl_bytes).status_code == 200
        assert httpx.post(f"{address}api/search", content=b"no picture").status_code == 422
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=30)
    assert (out, err) == ("", "")
    assert server.returncode == 0


@pytest.mark.parametrize("given", [None, "option", "environment"])
def test_a_host_that_others_can_reach_asks_for_a_token(gallery, given):
    arguments = ["-g", gallery.path, "--port", 0, "--host", "0.0.0.0", "--json"]
    environment = {}
    if given == "option":
        arguments += ["--token", TOKEN]
    if given == "environment":
        environment["BITGAZE_TOKEN"] = TOKEN
    server = started(*arguments, **environment)
    try:
        facts = json.loads(server.stdout.readline())
        assert facts["items"] == 5
        place = urlsplit(facts["address"])
        token = re.fullmatch(r"token=([\w-]+)", place.query)[1]
        assert len(token) >= 16
        assert given is None or token == TOKEN
        with httpx.Client(base_url=f"http://127.0.0.1:{place.port}") as client:
            assert client.get("/api/gallery").status_code == 401
            assert client.get(f"/?token={token}").status_code == 303
            assert client.get("/api/gallery").status_code == 200
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)


def test_what_the_command_refuses(gallery, tmp_path):
    def stopped(*arguments):
        with started("-g", gallery.path, *arguments) as server:
            out, err = server.communicate()
        assert (out, server.returncode) == ("", 2)
        assert err.startswith("bitgaze: ")
        assert "Traceback" not in err
        return err

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1 port {port}" in (err := stopped("--port", port))
        assert "choose another with --port" in err
    assert "no.such.host.invalid" in stopped("--host", "no.such.host.invalid")
    assert "port is 70000, expected 0 to 65535" in stopped("--port", 70000)
    for token in ("short", "with spaces and ; more", "\u20ac" * 16):
        assert "expected 16 or more" in stopped("--token", token, "--port", 0)
    assert "no such gallery" in stopped("-g", tmp_path / "none.bitgaze")


def test_without_the_extra_the_command_says_what_to_install(gallery):
    for name in ("starlette", "uvicorn", "python_multipart", "anyio"):
        script = (
            f"import sys; sys.modules[{name!r}] = None\n"
            "from bitgaze.cli import main; sys.exit(main(sys.argv[1:]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "serve", "-g", gallery.path],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert done.stderr == (
            f"bitgaze: bitgaze serve needs {name}, which is not installed: "
            "pip install 'bitgaze[serve]'\n"
        )


def test_an_application_needs_the_gallerys_model(tmp_path):
    path = tmp_path / "own.bitgaze"
    with Gallery(path, bits=64) as gallery:
        create_app(gallery)  # codes of one's own need none
        gallery.close()
        with pytest.raises(GalleryError):
            create_app(gallery).state.serving.gallery.get("a")
