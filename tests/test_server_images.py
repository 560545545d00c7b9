"""Thumbnails and attention: whose image they show, and how much work they are."""

import functools
import io
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from PIL import Image

from bitgaze import Gallery
from bitgaze.server import images
from bitgaze.server.app import create_app
from bitgaze.server.drawings import Drawings
from conftest import smooth_image
from serving import client_of, refusal

WHATS = ("thumbnail", "attention")


@pytest.fixture
def shown(tmp_path):
    """A folder with an image of the gallery, and one outside of it with a private image."""
    for name in ("shared", "private"):
        (tmp_path / name).mkdir()
    smooth_image(0).save(tmp_path / "shared" / "a.png")
    smooth_image(1).save(tmp_path / "private" / "secret.png")
    return tmp_path / "shared" / "a.png"


@pytest.fixture
def client(shown, encoder):
    with Gallery(shown.parent.parent / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(shown.parent)
        with client_of(create_app(gallery)) as client:
            yield client


def of(client, path, what="thumbnail", **headers):
    return client.get(f"/api/{what}", params={"key": str(path)}, headers=headers)


def linked(path, private):
    path.unlink()
    path.symlink_to(private)


def hard_linked(path, private):
    path.unlink()
    os.link(private, path)


def copied(path, private):
    shutil.copyfile(private, path)


def disguised(path, private):
    """Of the same size and modification time."""
    status = path.stat()
    content = private.read_bytes()
    path.write_bytes(content[: status.st_size].ljust(status.st_size, b"\0"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("swap", [linked, hard_linked, copied, disguised])
@pytest.mark.parametrize("is_kept", [False, True])
def test_another_image_in_an_items_place_is_not_shown(client, shown, swap, is_kept):
    before = {what: of(client, shown, what) for what in WHATS if is_kept}
    swap(shown, shown.parent.parent / "private" / "secret.png")
    for what in WHATS:
        headers = {"If-None-Match": before[what].headers["etag"]} if is_kept else {}
        code, message = refusal(of(client, shown, what, **headers), 404)
        assert code == "no_image"
        assert "a.png" in message
        assert "no longer the image that was indexed" in message
        assert "bitgaze index" in message


def test_the_same_image_is_shown_wherever_it_is_stored(client, shown):
    before = of(client, shown).content
    os.utime(shown, (1, 1))
    assert of(client, shown).content == before
    moved = shown.parent.parent / "elsewhere.png"
    shown.rename(moved)
    shown.symlink_to(moved)
    assert of(client, shown).content == before


def test_an_indexed_link_is_shown(tmp_path, encoder):
    (tmp_path / "links").mkdir()
    smooth_image(0).save(tmp_path / "target.png")
    link = tmp_path / "links" / "a.png"
    link.symlink_to(tmp_path / "target.png")
    with Gallery(tmp_path / "g.bitgaze", encoder=encoder) as gallery:
        gallery.sync(tmp_path / "links")
        with client_of(create_app(gallery)) as client:
            assert of(client, link).status_code == 200
            smooth_image(2).save(tmp_path / "target.png")
            assert refusal(of(client, link), 404)[0] == "no_image"
            gallery.sync(tmp_path / "links")
            assert of(client, link).status_code == 200


def test_files_over_the_limit_are_not_read(client, shown, monkeypatch):
    monkeypatch.setattr(images, "_MAX_FILE_BYTES", 100)
    assert "the server shows files of up to" in refusal(of(client, shown), 404)[1]


def test_drawings_are_kept_and_shared(client, shown, monkeypatch):
    drawn, start = [], threading.Event()

    def slow(content, side):
        assert start.wait(60)
        drawn.append(side)
        return smooth_image(side)

    monkeypatch.setattr(images, "thumbnail", slow)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(of, client, shown) for _ in range(8)]
        assert client.get("/health").status_code == 200
        start.set()
        answers = [one.result() for one in asked]
    assert of(client, shown).content == answers[0].content
    assert {answer.content for answer in answers} == {answers[0].content}
    assert drawn == [320]
    assert Image.open(io.BytesIO(answers[0].content)).format == "JPEG"


def test_a_few_are_drawn_at_a_time_and_the_last_used_are_kept():
    running, most, drawn = [], [], []
    lock = threading.Lock()

    def draw(key):
        with lock:
            running.append(key)
            most.append(len(running))
        drawn.append(key)
        with lock:
            running.remove(key)
        return bytes(1000)

    async def ask(drawings, *keys):
        async with anyio.create_task_group() as group:
            for key in keys:
                group.start_soon(drawings.get, key, functools.partial(draw, key))

    async def work():
        drawings = Drawings(max_at_once=2, max_kept_bytes=4 * 2000)
        await ask(drawings, *range(20))
        assert sorted(drawn) == list(range(20))
        drawn.clear()
        for key in ("a", "b", "c", "d", "a", "e", "a", "b"):
            await ask(drawings, key)
        assert drawn == ["a", "b", "c", "d", "e", "b"]

    anyio.run(work)
    assert max(most) <= 2


def test_a_shared_failure_keeps_no_traceback_of_other_requests():
    depths = []

    async def work():
        drawings, error = Drawings(), ValueError("broken")

        def fail():
            started.wait(60)
            raise error

        async def ask():
            with pytest.raises(ValueError, match="broken") as raised:
                await drawings.get("a", fail)
            depths.append(len(raised.traceback))

        started = threading.Event()
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            started.set()

    anyio.run(work)
    assert len(set(depths[1:])) == 1


def test_a_failure_is_shared_but_not_kept():
    calls = []

    def fail():
        calls.append(None)
        raise ValueError("broken")

    async def work():
        drawings = Drawings()
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await drawings.get("a", fail)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await drawings.get("a", fail)
        assert await drawings.get("a", lambda: b"whole") == b"whole"

    anyio.run(work)
    assert len(calls) == 2
