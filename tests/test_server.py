"""What the server answers to programs, and what it refuses."""

import io
import json
import math
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount

from bitgaze import Gallery, GalleryError
from bitgaze.gallery.hits import percent
from bitgaze.server.app import create_app
from conftest import PETS, smooth_image
from serving import TOKEN, client_of, read_all, refusal, served


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


# ---- answers ------------------------------------------------------------------------------------


def test_an_uploaded_image_finds_what_the_gallery_finds(client, gallery, owl_bytes, pets):
    answer = client.post("/api/search", content=owl_bytes, params={"k": 3})
    assert answer.status_code == 200
    found = answer.json()
    expected = gallery.search(owl_bytes, 3)
    assert [hit["key"] for hit in found["hits"]] == [hit.key for hit in expected]
    first = found["hits"][0]
    assert first == {
        "key": str(pets / "birds" / "owl.jpg"),
        "name": "owl.jpg",
        "has_image": True,
        "width": 256,
        "height": 171,
        "distance": 0,
        "same_kind": expected[0].same_kind,
        "same_image": 1,
        "chances": expected[0].chances,
        "metadata": {"kind": "birds", "rank": 0},
        "box": None,
        "query_box": None,
        "copy_of": None,
    }
    query = gallery.query(owl_bytes)
    assert found["code"] == query.to_bytes().hex()
    assert found["looks"] == [list(box) for box in query.looks]
    assert found["region"] is None
    assert found["bits"] == 128
    assert "image" not in found


def test_a_form_has_the_same_answer(client, owl_bytes):
    raw = client.post("/api/search", content=owl_bytes).json()
    form = client.post("/api/search", files={"file": ("owl.jpg", owl_bytes, "image/jpeg")})
    assert form.json() == raw
    assert client.post("/api/search", content=owl_bytes, headers={"content-type": ""}).json() == raw


def test_images_returns_thumbnail_and_attention(client, owl_bytes):
    found = client.post("/api/search", content=owl_bytes, params={"images": "true"}).json()
    assert found["image"].startswith("data:image/jpeg;base64,")
    assert found["attention"].startswith("data:image/jpeg;base64,")
    assert found["image"] != found["attention"]


def test_a_key_and_a_code_find_the_same(client, gallery, owl):
    by_key = client.get("/api/search", params={"key": owl, "k": 2}).json()
    assert [hit["key"] for hit in by_key["hits"]] == [
        hit.key for hit in gallery.search(owl, 2, exclude_self=True)
    ]
    size = {"width": 256, "height": 171}
    assert by_key["item"] == {"key": owl, "name": "owl.jpg", "has_image": True} | size
    code = gallery.query(Path(owl)).to_bytes().hex()
    by_code = client.get("/api/search/code", params={"code": code, "k": 3}).json()
    assert by_code["hits"][0]["key"] == owl
    assert by_code["hits"][1:] == by_key["hits"]


def test_radius_and_where_limit_the_hits(client, gallery, owl, pets):
    params = {"key": owl, "where": json.dumps({"kind": "fish"})}
    hits = client.get("/api/search", params=params).json()["hits"]
    assert {hit["key"] for hit in hits} == {
        str(pets / name) for name in PETS if name.startswith("fish")
    }
    nearest, farther = sorted(hit["distance"] for hit in hits)
    radius = math.ceil(nearest)
    assert radius < farther
    hits = client.get("/api/search", params={**params, "radius": radius}).json()["hits"]
    assert [hit["distance"] for hit in hits] == [nearest]
    assert client.get("/api/search", params={**params, "radius": 0}).json()["hits"] == []


def test_a_region_finds_what_it_shows(client, gallery, owl, owl_bytes):
    region = {"region": "0.25,0.1,0.75,0.6"}
    box = [0.25, 0.1, 0.75, 0.6]
    by_image = client.post("/api/search", content=owl_bytes, params=region).json()
    by_key = client.get("/api/search", params={**region, "key": owl}).json()
    by_code = client.get("/api/search/code", params={**region, "code": by_image["code"]}).json()
    expected = gallery.search(owl_bytes, region=tuple(box))
    for answer in (by_image, by_code):
        assert answer["region"] == box
        found = [(hit["key"], hit["distance"], hit["query_box"]) for hit in answer["hits"]]
        assert found == [(hit.key, hit.distance, box) for hit in expected]
        assert [hit["box"] for hit in answer["hits"]] == [
            hit.box and list(hit.box) for hit in expected
        ]
    assert by_key["hits"] == [hit for hit in by_image["hits"] if hit["key"] != owl]
    assert by_key["looks"] == gallery.get(owl).boxes.tolist() != []
    code, message = refusal(client.get("/api/search", params={**region, "key": "by hand"}), 404)
    assert (code, "added by hand" in message) == ("no_image", True)


def test_codes_of_looks_are_refused_where_items_have_none(tmp_path, encoder, pets):
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(pets)
        forged = bytes(range(32)) + bytes(2 * 16) + b"\0\0\0\0\xff\xff\xff\xff" * 2
        with client_of(create_app(gallery)) as client:
            answer = client.get("/api/search/code", params={"code": forged.hex()})
        assert refusal(answer, 400)[0] == "bad_argument"


@pytest.mark.parametrize(
    "region",
    ["", "0,0,1", "0.5,0,0.5,1", "0,0,1,1.01", "-1,0,1,1", "nan,0,1,1", "0,0,1e0,1", "0..1,0,1,1"],
)
def test_a_wrong_region_is_refused(client, owl, region):
    answer = client.get("/api/search", params={"key": owl, "region": region})
    code, message = refusal(answer, 400)
    assert code == "bad_argument"
    assert "expected left,top,right,bottom" in message


def test_words_find_what_they_name(client, gallery, pets):
    found = client.get("/api/search/words", params={"words": "bird", "k": 3}).json()
    expected = gallery.search_words("bird", 3)
    assert [hit["key"] for hit in found["hits"]] == [hit.key for hit in expected]
    assert found["hits"][0]["key"].startswith(str(pets / "birds"))
    assert found["hits"][0]["chances"] == {"shows it": percent(expected[0].probability)}
    where = json.dumps({"kind": "fish"})
    fish = client.get("/api/search/words", params={"words": "fish", "where": where}).json()
    assert {hit["metadata"]["kind"] for hit in fish["hits"]} == {"fish"}
    code, message = refusal(client.get("/api/search/words", params={"words": "democracy"}), 404)
    assert code == "unknown_word"
    assert "democracy" in message


def test_gallery_returns_facts_and_limits(client, gallery):
    facts = client.get("/api/gallery").json()
    assert re.fullmatch("[0-9a-f]{16}", facts.pop("id"))
    assert facts == {
        "name": "pets.bitgaze",
        "items": 5,
        "bits": 128,
        "looks": 3,
        "words": True,
        "model": gallery.model_name,
        "fingerprint": gallery.fingerprint,
        "adaptation": None,
        "radius": gallery.radius(),
        "unrelated": {"radius": gallery.radius(1 / 40), "expected": 1},
        "can_reveal": False,
        "limits": {
            "upload_bytes": 32_000_000,
            "upload_seconds": 60,
            "pixels": 50_000_000,
            "conditions": 32,
            "slow_fields": 4,
            "hits": 200,
        },
    }


def test_browse_returns_items_folders_and_fields(client, pets):
    found = client.get("/api/browse").json()
    assert {item["name"] for item in found["items"]} == {Path(name).name for name in PETS}
    assert {(item["width"], item["height"]) for item in found["items"]} >= {(256, 171)}
    assert found["root"] == str(pets)
    assert found["folders"] == [
        {"path": str(pets / name), "name": name} for name in ("birds", "fish")
    ]
    assert found["fields"] == [
        {"name": "kind", "kind": "choice", "values": ["birds", "fish"]},
        {"name": "rank", "kind": "choice", "values": [0, 1, 2, 3]},
    ]
    assert found["sampled"] == 5


def test_browse_knows_the_kind_of_each_field(tmp_path):
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
    assert (found["root"], found["folders"]) == ("", [])
    assert len(found["items"]) <= 24


def test_health_returns_the_report_of_the_session(client, gallery):
    found = client.get("/health").json()
    assert found["status"] == "ok"
    assert found["items"] == 5
    assert tuple(found["session"]["providers"]) == gallery.encoder.report.providers
    assert found["session"]["nodes"] == gallery.encoder.report.nodes


def test_health_is_503_when_the_gallery_cannot_be_read(pets, encoder, tmp_path):
    gallery = Gallery(tmp_path / "gone.bitgaze", encoder=encoder)
    with client_of(create_app(gallery)) as client:
        gallery.close()
        code, _ = refusal(client.get("/health"), 503)
        assert code == "gallery_unavailable"


def test_metadata_that_utf8_cannot_encode_is_returned(tmp_path):
    metadata = {"half": "\ud800", "long": 10**400, "deep": [{"a": None}]}
    with Gallery(tmp_path / "own.bitgaze", bits=64) as gallery:
        for key in ("a", "b"):
            gallery.add_code(key, np.zeros(8, np.uint8), metadata)
        with client_of(create_app(gallery)) as client:
            (hit,) = client.get("/api/search", params={"key": "a"}).json()["hits"]
            assert hit["metadata"] == metadata
            found = client.get("/api/browse").json()
    assert [field["name"] for field in found["fields"]] == ["half", "long"]


def test_an_empty_gallery_and_a_gallery_of_codes(tmp_path, encoder, owl_bytes):
    with (
        Gallery(tmp_path / "empty.bitgaze", encoder=encoder) as empty,
        client_of(create_app(empty)) as client,
    ):
        assert client.post("/api/search", content=owl_bytes).json()["hits"] == []
        assert client.get("/api/browse").json() == {
            "root": "",
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
            assert (hit["key"], hit["distance"], hit["same_kind"]) == ("b", 8, None)
            assert refusal(client.post("/api/search", content=owl_bytes), 409)[0] == "no_model"
            assert refusal(client.get("/api/attention?key=a"), 409)[0] == "no_model"
            assert client.get("/health").json()["session"] is None
            assert client.get("/api/gallery").json()["fingerprint"] is None


def test_thumbnails_have_the_size_and_an_etag(client, owl):
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
    exif[0x0112] = 6  # rotated by 90 degrees
    smooth_image(0, (64, 32)).save(tmp_path / "turned.jpg", exif=exif)
    with Gallery(tmp_path / "turned.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path)
        with client_of(create_app(gallery)) as client:
            answer = client.get("/api/thumbnail", params={"key": str(tmp_path / "turned.jpg")})
    assert Image.open(io.BytesIO(answer.content)).size == (32, 64)


def test_an_item_without_an_image_is_404(client, tmp_path, encoder):
    code, message = refusal(client.get("/api/thumbnail?key=by hand"), 404)
    assert code == "no_image"
    assert "by hand" in message
    assert refusal(client.get("/api/thumbnail?key=nobody"), 404)[0] == "no_such_item"
    for name in ("gone.png", "pipe.png", "broken.png"):
        smooth_image(0).save(tmp_path / name)
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path)
        (tmp_path / "gone.png").unlink()
        (tmp_path / "pipe.png").unlink()
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "broken.png").write_bytes(b"no image")
        with client_of(create_app(gallery)) as client:
            for name in ("gone.png", "pipe.png", "broken.png"):
                for what in ("thumbnail", "attention"):
                    answer = client.get(f"/api/{what}", params={"key": str(tmp_path / name)})
                    assert refusal(answer, 404)[0] == "no_image"


def test_page_files_have_strict_headers(client):
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


# ---- refusals -----------------------------------------------------------------------------------


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
        ({"where": '{"year": {">": null}}'}, "expected a number or a string"),
        ({"K": "3"}, "Unknown parameter 'K'; expected key, k, radius, where"),
    ],
)
def test_wrong_parameters_are_refused(client, owl, params, found):
    code, message = refusal(client.get("/api/search", params={"key": owl, **params}), 400)
    assert code == "bad_argument"
    assert found in message


@pytest.mark.parametrize("path", ["search", "search/code", "thumbnail", "attention"])
def test_missing_parameters_are_refused(client, path):
    code, message = refusal(client.get(f"/api/{path}"), 400)
    assert code == "bad_argument"
    assert "is missing" in message


def test_malformed_parameters_are_refused(client):
    for code in ("", "ab", "g" * 32, "a" * 34, "ab " * 10 + "ab"):
        answer = client.get("/api/search/code", params={"code": code})
        assert "expected 32 hexadecimal digits" in refusal(answer, 400)[1]
    assert "twice" in refusal(client.get("/api/search?k=1&k=2"), 400)[1]
    assert "true or false" in refusal(client.post("/api/search?images=yes"), 400)[1]


def test_unknown_addresses_and_methods_are_refused(client):
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
        # Over a socket: an HTTP client would normalise the path.
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode()
            )
            answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"root:" not in answer


def test_a_key_is_never_a_path(client, pets, examples):
    """The file exists, but the gallery does not contain it."""
    outside = str(examples / "birds" / "osprey.jpg")
    assert Path(outside).exists()
    for what in ("search", "thumbnail", "attention"):
        answer = client.get(f"/api/{what}", params={"key": outside})
        assert refusal(answer, 404)[0] == "no_such_item"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "evil@localhost", "", "["],
)
def test_other_host_names_are_refused(client, host):
    for path in ("/", "/health", "/api/gallery"):
        code, message = refusal(client.get(path, headers={"Host": host}), 421)
        assert code == "wrong_host"
        assert "Open the address that `bitgaze serve` printed" in message


def test_own_host_names_are_answered(client):
    for host in ("localhost", "LOCALHOST:8642", "127.0.0.1:80", "[::1]:8642", "localhost."):
        assert client.get("/health", headers={"Host": host}).status_code == 200
    # Any other address requires a token.
    assert refusal(client.get("/health", headers={"Host": "192.168.0.7"}), 421)


API = ("/api/gallery", "/api/browse", "/api/search?key=a", "/api/thumbnail?key=a", "/api/nothing")


def test_other_pages_may_not_use_the_api(client, owl_bytes):
    for headers in (
        *(
            {"Origin": it}
            for it in ("http://evil.example", "null", "http://localhost:1", "http://[")
        ),
        *({"Sec-Fetch-Site": it} for it in ("cross-site", "same-site", "same-origin, none", "")),
        {
            "Sec-Fetch-Site": "cross-site",
            "Sec-Fetch-Mode": "navigate",
            "Sec-Fetch-Dest": "document",
        },
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
    ):
        answer = client.post("/api/search", content=owl_bytes, headers=headers)
        assert refusal(answer, 403)[0] == "wrong_origin"
        for path in API:
            assert refusal(client.get(path, headers=headers), 403)[0] == "wrong_origin"
            assert client.head(path, headers=headers).status_code == 403


def test_the_own_page_and_programs_may_use_the_api(client, owl_bytes):
    for headers in (
        {},
        {"Origin": "http://localhost"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},  # a bookmark, or typed
    ):
        answer = client.post("/api/search", content=owl_bytes, headers=headers)
        assert answer.status_code == 200
        assert client.get("/api/gallery", headers=headers).status_code == 200


def test_a_link_may_open_the_page(client):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for path in ("/", "/?key=a", "/serve.js", "/api/docs"):
        assert client.get(path, headers=link).status_code == 200


def test_the_token_is_required(gallery, owl_bytes):
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
        # The page itself contains nothing private, and health is for monitoring.
        assert client.get("/").status_code == 200
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/health", headers=bearer).json()["items"] == 5
        # A name can be made to point elsewhere; an address cannot.
        assert client.get("/health", headers={"Host": "192.168.0.7:80"}).status_code == 200
        assert refusal(client.get("/health", headers={"Host": "evil.example"}), 421)

        assert refusal(client.get("/?token=wrong"), 401)
        assert client.get("/api/gallery").status_code == 401
        opened = client.get(f"/?token={TOKEN}", follow_redirects=False)
        assert (opened.status_code, opened.headers["location"]) == (303, "/")
        assert "HttpOnly" in opened.headers["set-cookie"]
        assert "samesite=strict" in opened.headers["set-cookie"].lower()
        assert client.get("/api/gallery").status_code == 200


@pytest.mark.parametrize(
    "cookie", ["{0}=x; {0}={1}", "{0}={1}; {0}=x", "a; {0}={1};;{0}=", "{0}={1}"]
)
def test_one_of_several_cookies_is_enough(gallery, cookie):
    with client_of(create_app(gallery, token=TOKEN)) as client:
        cookie = cookie.format("bitgaze-80", TOKEN)
        assert client.get("/api/gallery", headers={"Cookie": cookie}).status_code == 200
        wrong = cookie.replace(TOKEN, "wrong")
        assert client.get("/api/gallery", headers={"Cookie": wrong}).status_code == 401


def test_metrics_count_what_was_answered_and_name_nothing(gallery, owl_bytes):
    with client_of(create_app(gallery)) as client:
        client.post("/api/search", content=owl_bytes)
        client.post("/api/search", content=b"no image")
        client.get("/api/gallery", headers={"Sec-Fetch-Site": "cross-site"})  # by the guard
        client.request("SECRET", "/secret")
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    requests = {
        tuple(sample.labels.values()): sample.value
        for sample in families["bitgaze_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests == {
        ("POST", "/api/search", "200"): 1,
        ("POST", "/api/search", "422"): 1,
        ("GET", "/api/gallery", "403"): 1,
        ("other", "other", "404"): 1,
    }
    (items,) = families["bitgaze_items"].samples
    assert items.value == len(gallery)
    (info,) = families["bitgaze_info"].samples
    assert info.labels["fingerprint"] == gallery.fingerprint
    assert families["process_resident_memory_bytes"].samples[0].value > 1e7


def test_metrics_require_the_token(gallery):
    with client_of(create_app(gallery, token=TOKEN)) as client:
        assert refusal(client.get("/metrics"), 401)[0] == "wrong_token"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/metrics", headers=bearer).status_code == 200


def test_a_mounted_application_requires_the_token(gallery):
    app = Starlette(routes=[Mount("/photos", create_app(gallery, token=TOKEN))])
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    other_site = {**bearer, "Sec-Fetch-Site": "cross-site"}
    with client_of(app) as client:
        for path in ("/photos/api/gallery", "/photos/metrics"):
            assert refusal(client.get(path), 401)[0] == "wrong_token"
            assert client.get(path, headers=bearer).status_code == 200
        answer = client.get("/photos/api/gallery", headers=other_site)
        assert refusal(answer, 403)[0] == "wrong_origin"
        assert client.get("/photos/health").json() == {"status": "ok"}


def test_health_without_the_token_tells_nothing_of_the_gallery(pets, encoder, tmp_path):
    gallery = Gallery(tmp_path / "secret-name.bitgaze", encoder=encoder)
    with client_of(create_app(gallery, token=TOKEN)) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Cookie": "bitgaze-80=wrong"}):
            assert client.get("/health", headers=headers).json() == {"status": "ok"}
        gallery.close()
        code, message = refusal(client.get("/health"), 503)
        assert code == "gallery_unavailable"
        assert "secret" not in message


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://{}/api/gallery", "{}", 200),
        ("HTTP://{}/api/gallery?a=1", "{}", 400),
        ("http://{}", "{}", 200),
        # The target counts, not Host.
        ("http://{}/api/gallery", "evil.example", 200),
        ("http://evil.example/api/gallery", "{}", 421),
        ("http://evil.example@localhost/api/gallery", "{}", 421),
        ("http:///api/gallery", "{}", 421),
        ("ftp://{}/api/gallery", "{}", 404),
    ],
)
def test_a_target_may_name_the_server(gallery, target, host, status):
    with served(gallery) as address:
        place = urlsplit(address)
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(head.replace("{}", place.netloc).encode())
            assert read_all(connection).startswith(b"HTTP/1.1 %d " % status)


def test_an_application_needs_an_open_gallery(tmp_path):
    path = tmp_path / "own.bitgaze"
    with Gallery(path, bits=64) as gallery:
        create_app(gallery)  # a gallery of codes requires no model
        gallery.close()
        with pytest.raises(GalleryError):
            create_app(gallery).state.server.gallery.get("a")
