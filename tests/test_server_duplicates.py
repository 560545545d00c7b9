"""The API of duplicates, what a person says of them, and files shown in the file manager."""

import json
import os
import shutil
import threading
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bitgaze import Gallery
from bitgaze.server import groups, reveal
from bitgaze.server.app import create_app
from serving import TOKEN, client_of, refusal


@pytest.fixture(scope="module")
def folder(tmp_path_factory, examples):
    """Two images with copies: a large one, twice and shrunk; another one, twice."""
    folder = tmp_path_factory.mktemp("copies")
    for name in ("owl", "duck"):
        shutil.copy(examples / "birds" / f"{name}.jpg", folder / f"{name}.jpg")
        shutil.copy(examples / "birds" / f"{name}.jpg", folder / f"{name} again.jpg")
    with Image.open(folder / "owl.jpg") as image:
        image.resize((120, 80)).save(folder / "small.jpg", quality=60)
    os.utime(folder / "owl.jpg", (1_600_000_000, 1_600_000_000))
    return folder


@pytest.fixture(scope="module")
def indexed(folder, encoder):
    with Gallery(folder / "g.bitgaze", encoder=encoder, looks=0) as gallery:
        gallery.sync(folder)
    return folder / "g.bitgaze"


@pytest.fixture
def gallery(indexed, encoder, tmp_path):
    shutil.copy(indexed, tmp_path / "g.bitgaze")
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        yield gallery


@pytest.fixture
def client(gallery):
    with client_of(create_app(gallery)) as client:
        yield client


def names(answer):
    """(best, others) of each group, by name and tier."""
    return [
        (group["best"]["name"], {other["name"]: other["tier"] for other in group["others"]})
        for group in answer.json()["groups"]
    ]


# ---- groups -------------------------------------------------------------------------------------


def test_groups_are_those_of_the_gallery(client, gallery, folder):
    answer = client.get("/api/duplicates")
    found = answer.json()
    assert found["tier"] == "copy"
    assert found["counts"] == {"identical": 1, "copy": 1, "look-alike": None}
    (expected,) = [one for one in gallery.duplicates() if one.others[-1].tier == "copy"]
    assert names(answer) == [
        ("owl.jpg", {"owl again.jpg": "identical", "small.jpg": "copy"}),
    ]
    assert found["bytes"] == sum(other.file_bytes for other in expected.others)
    assert (found["images"], found["first"]) == (2, 0)
    (group,) = found["groups"]
    assert group["left_out"] == 0
    assert group["best"] == {
        "key": str(folder / "owl.jpg"),
        "name": "owl.jpg",
        "has_image": True,
        "width": 256,
        "height": 171,
        "path": str(folder / "owl.jpg"),
        "file_bytes": (folder / "owl.jpg").stat().st_size,
        "date": datetime.fromtimestamp(1_600_000_000).isoformat(),
        "tier": None,
        "distance": 0,
    }
    assert group["others"][1]["distance"] == expected.others[1].distance
    identical = client.get("/api/duplicates", params={"tier": "identical"})
    assert [sorted([best, *others]) for best, others in names(identical)] == [
        ["duck again.jpg", "duck.jpg"]
    ]


def test_a_page_of_groups(client):
    answer = client.get("/api/duplicates", params={"tier": "identical", "first": 1, "count": 5})
    assert answer.json()["groups"] == []
    assert answer.json()["counts"]["identical"] == 1


def test_look_alikes_are_found_on_demand(client, gallery):
    answer = client.get("/api/duplicates", params={"tier": "look-alike"})
    found = [
        group
        for group in gallery.duplicates(look_alikes=True)
        if group.others[-1].tier == "look-alike"
    ]
    assert answer.json()["counts"] == {"identical": None, "copy": None, "look-alike": len(found)}


def test_a_large_group_is_cut(client, monkeypatch):
    monkeypatch.setattr("bitgaze.server.duplicates._MAX_MEMBERS", 1)
    (group,) = client.get("/api/duplicates").json()["groups"]
    assert (len(group["others"]), group["left_out"]) == (1, 1)


def test_groups_are_computed_once_until_the_gallery_changes(client, gallery, folder, monkeypatch):
    computed = []
    duplicates = Gallery.duplicates
    monkeypatch.setattr(
        Gallery,
        "duplicates",
        lambda self, **options: computed.append(1) or duplicates(self, **options),
    )
    state = client.get("/api/duplicates").json()["state"]
    assert client.get("/api/duplicates", params={"tier": "identical"}).json()["state"] == state
    assert len(computed) == 1
    gallery.remove(str(folder / "small.jpg"))
    # Who is on the second page goes on with the same groups; anyone else gets the new ones.
    old = client.get("/api/duplicates", params={"state": state}).json()
    assert (old["state"], old["counts"]["copy"], len(computed)) == (state, 1, 1)
    new = client.get("/api/duplicates").json()
    assert (new["state"] == state, new["counts"]["copy"], len(computed)) == (False, 0, 2)


def test_a_long_computation_tells_how_far_it_is(client, monkeypatch):
    monkeypatch.setattr(groups, "_MAX_WAIT_S", 0.05)
    may_end = threading.Event()

    def slow(self, *, look_alikes, on_progress):
        on_progress(3, 10)
        may_end.wait(20)
        return []

    monkeypatch.setattr(Gallery, "duplicates", slow)
    answer = client.get("/api/duplicates")
    assert answer.status_code == 202
    assert {name: answer.json()[name] for name in ("done", "total")} == {"done": 3, "total": 10}
    # Searches do not wait for it.
    key = client.get("/api/browse").json()["items"][0]["key"]
    assert client.get("/api/search", params={"key": key}).status_code == 200
    may_end.set()
    monkeypatch.setattr(groups, "_MAX_WAIT_S", 20)
    answer = client.get("/api/duplicates", params={"state": answer.json()["state"]})
    assert answer.status_code == 200
    assert answer.json()["groups"] == []


def test_a_computation_ends_when_nobody_asks_any_more(client, monkeypatch):
    monkeypatch.setattr(groups, "_MAX_WAIT_S", 0.05)
    monkeypatch.setattr(groups, "_PATIENCE_S", 0.1)
    ended = threading.Event()

    def endless(self, *, look_alikes, on_progress):
        try:
            while True:
                on_progress(1, 2)
                time.sleep(0.005)
        finally:
            ended.set()

    monkeypatch.setattr(Gallery, "duplicates", endless)
    assert client.get("/api/duplicates").status_code == 202
    assert ended.wait(20)
    monkeypatch.undo()
    assert client.get("/api/duplicates").json()["counts"]["copy"] == 1  # begins again


def test_an_abandoned_computation_begins_again_for_who_knows_its_state(gallery):
    kept = groups.Groups(gallery)
    first = kept.get(None, look_alikes=False)
    first._thread.join(20)
    assert kept.get(first.state, look_alikes=False) is first
    first.groups, first.error = None, groups.Abandoned()
    again = kept.get(first.state, look_alikes=False)
    again._thread.join(20)
    assert again is not first
    assert len(again.groups) == 2


def test_an_error_of_the_computation_is_told(client, monkeypatch):
    def broken(self, **options):
        raise OSError("no such disk")

    monkeypatch.setattr(Gallery, "duplicates", broken)
    assert refusal(client.get("/api/duplicates"), 500)[0] == "internal"


@pytest.mark.parametrize(
    "parameters", [{"tier": "all"}, {"first": "-1"}, {"count": "51"}, {"count": "0"}]
)
def test_wrong_parameters(client, parameters):
    code, message = refusal(client.get("/api/duplicates", params=parameters), 400)
    assert code == "bad_argument"
    assert "expected" in message


# ---- what is no duplicate -----------------------------------------------------------------------


def tell(client, *names, **more):
    return client.post("/api/distinct", params={"keys": json.dumps(list(names)), **more})


def test_what_is_called_distinct_leaves_its_group(client, gallery, folder, monkeypatch):
    keys = [str(folder / "owl.jpg"), str(folder / "small.jpg")]
    state = client.get("/api/duplicates").json()["state"]
    assert tell(client, *keys).json() == {"keys": keys, "distinct": True}
    with monkeypatch.context() as patched:
        # The groups that are known lose it; nothing is computed again.
        patched.setattr(Gallery, "duplicates", None)
        answer = client.get("/api/duplicates")
        assert answer.json()["state"] != state
        identical = names(client.get("/api/duplicates", params={"tier": "identical"}))
    assert answer.json()["counts"] == {"identical": 2, "copy": 0, "look-alike": None}
    assert ("owl.jpg", {"owl again.jpg": "identical"}) in identical
    assert len(gallery.duplicates()) == 2
    # And again a duplicate.
    assert tell(client, *keys, distinct="false").json()["distinct"] is False
    assert client.get("/api/duplicates").json()["counts"]["copy"] == 1


def test_what_another_process_calls_distinct_counts(client, gallery, folder):
    assert client.get("/api/duplicates").json()["counts"]["copy"] == 1
    with Gallery(gallery.path, create=False) as other:
        other.set_distinct(str(folder / "owl.jpg"), str(folder / "small.jpg"))
    assert client.get("/api/duplicates").json()["counts"]["copy"] == 0


def test_what_cannot_be_called_distinct(client, folder):
    owl, again = str(folder / "owl.jpg"), str(folder / "owl again.jpg")
    assert refusal(tell(client, owl, again), 409)[0] == "identical_files"
    code, message = refusal(tell(client, owl, "gone"), 404)
    assert code == "no_such_item"
    assert "'gone'" in message
    for keys in ("[]", '["a"]', '["a", "a"]', "[1, 2]", '{"a": 1}', "no JSON", "[" * 9000):
        answer = client.post("/api/distinct", params={"keys": keys})
        code, message = refusal(answer, 400)
        assert code == "bad_argument"
        assert "expected a JSON array of 2 to 24 keys" in message
    assert client.get("/api/distinct").status_code == 405


def test_another_site_may_not_call_anything_distinct(client, folder):
    headers = {"sec-fetch-site": "cross-site"}
    keys = json.dumps([str(folder / "owl.jpg"), str(folder / "small.jpg")])
    answer = client.post("/api/distinct", params={"keys": keys}, headers=headers)
    assert refusal(answer, 403)[0] == "wrong_origin"


# ---- the file manager ---------------------------------------------------------------------------


@pytest.fixture
def launched(monkeypatch):
    """Paths that the file manager was asked to show; a desktop."""
    paths = []
    monkeypatch.setattr(reveal, "_has_desktop", lambda: True)
    monkeypatch.setattr(
        reveal.click, "launch", lambda path, *, locate: paths.append((path, locate)) or 0
    )
    return paths


def show(gallery, key, *, address="127.0.0.1", **options):
    app = create_app(gallery, is_local=options.pop("is_local", True), token=options.get("token"))
    headers = {"authorization": f"Bearer {options['token']}"} if "token" in options else {}
    with client_of(app, client=(address, 1000)) as client:
        can = client.get("/api/gallery", headers=headers).json()["can_reveal"]
        return can, client.post("/api/reveal", params={"key": key}, headers=headers)


def test_a_file_is_shown_by_key(gallery, folder, launched):
    key = str(folder / "owl.jpg")
    can, answer = show(gallery, key)
    assert can
    assert answer.json() == {"key": key}
    assert launched == [(key, True)]
    assert show(gallery, key, token=TOKEN)[1].status_code == 200


def test_only_this_machine_shows_files(gallery, folder, launched):
    for options in ({"address": "192.0.2.7"}, {"is_local": False}, {"address": "testclient"}):
        can, answer = show(gallery, str(folder / "owl.jpg"), **options)
        assert not can
        assert refusal(answer, 403)[0] == "not_local"
    assert launched == []


def test_a_path_is_not_a_key(gallery, folder, launched):
    other = folder / "other.jpg"
    shutil.copy(folder / "owl.jpg", other)
    try:
        assert refusal(show(gallery, str(other))[1], 404)[0] == "no_such_item"
    finally:
        other.unlink()
    gallery.add("by hand", Image.new("RGB", (9, 9)))
    assert refusal(show(gallery, "by hand")[1], 404)[0] == "no_image"
    assert launched == []


def test_what_cannot_be_shown(gallery, folder, launched, monkeypatch):
    key = str(folder / "small.jpg")
    content = Path(key).read_bytes()
    Path(key).unlink()
    try:
        assert refusal(show(gallery, key)[1], 404)[0] == "no_image"
    finally:
        Path(key).write_bytes(content)
    assert launched == []
    monkeypatch.setattr(reveal.click, "launch", lambda path, *, locate: 1)
    assert refusal(show(gallery, key)[1], 501)[0] == "no_desktop"
    with monkeypatch.context() as windows:
        windows.setattr(reveal, "sys", SimpleNamespace(platform="win32"))
        assert show(gallery, key)[1].status_code == 200
    monkeypatch.setattr(reveal, "_has_desktop", lambda: False)
    can, answer = show(gallery, key)
    assert not can
    assert refusal(answer, 501)[0] == "no_desktop"


# ---- copies among hits --------------------------------------------------------------------------


def test_hits_tell_which_are_copies(client, folder):
    duck = str(folder / "duck.jpg")
    hits = client.get("/api/search", params={"key": duck}).json()["hits"]
    copies = {hit["name"]: hit["copy_of"] for hit in hits}
    assert copies.pop("duck again.jpg") is None
    owls = [hit["key"] for hit in hits if "duck" not in hit["name"]]
    assert list(copies.values()) == [None, owls[0], owls[0]]


def test_identical_plain_images_are_copies_by_the_rule_of_the_gallery(gallery, client, tmp_path):
    for name, colour in (("red", "red"), ("red again", "red"), ("blue", "blue")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    gallery.sync(tmp_path)
    blue = str(tmp_path / "blue.png")
    hits = client.get("/api/search", params={"key": blue}).json()["hits"]
    reds = {hit["key"]: hit["copy_of"] for hit in hits if hit["name"].startswith("red")}
    assert list(reds.values()) == [None, next(iter(reds))]
    folded = gallery.search(blue, exclude_self=True, fold=True)
    assert [hit.key for hit in folded] == [hit["key"] for hit in hits if hit["copy_of"] is None]
