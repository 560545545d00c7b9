"""What spares a program a second call: replace, defaults, merges, open files, memory, threads."""

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest

from bitgaze import Gallery, GalleryError, HammingIndex, ImageError
from conftest import smooth_image

CODE = np.zeros(1, np.uint8)


def png(seed):
    file = io.BytesIO()
    smooth_image(seed).save(file, "PNG")
    return file


@pytest.fixture
def gallery(encoder):
    with Gallery(":memory:", encoder=encoder, looks=0) as gallery:
        yield gallery


def test_add_replaces_on_request(gallery):
    gallery.add("a", smooth_image(1), {"n": 1})
    with pytest.raises(GalleryError, match="key 'a' is already in use"):
        gallery.add("a", smooth_image(2))
    gallery.add("a", smooth_image(2), {"m": 2}, replace=True)
    gallery.add("b", smooth_image(3), replace=True)
    assert gallery.get("a").metadata == {"m": 2}
    assert [hit.key for hit in gallery.search(smooth_image(2), radius=0)] == ["a"]
    assert gallery.search(smooth_image(1), radius=0) == []


def test_get_with_a_default(gallery):
    gallery.add("a", smooth_image(1))
    assert gallery.get("b", None) is None
    assert gallery.get("b", default=7) == 7
    assert gallery.get("a", None).key == "a"
    with pytest.raises(TypeError, match="key must be a str"):
        gallery.get(3, None)


def test_a_mistyped_key_is_told_the_nearest():
    with Gallery(":memory:", bits=8) as gallery:
        for key in ("photos/owl.jpg", "photos/duck.jpg", "x"):
            gallery.add_code(key, CODE)
        with pytest.raises(KeyError, match=r"no item 'photo/owl.jpg'; the nearest are 'photos/owl"):
            gallery.get("photo/owl.jpg")
        with pytest.raises(KeyError, match="nearest are 'photos/duck.jpg'"):
            gallery.remove("photos/duk.jpg")
        with pytest.raises(KeyError) as raised:
            gallery.get("0123456")
        assert "nearest" not in str(raised.value)


def test_update_metadata_merges():
    with Gallery(":memory:", bits=8) as gallery:
        gallery.add_code("a", CODE, {"n": 1, "tags": ["x"]})
        gallery.update_metadata("a", {"n": None, "m": {"deep": 1}})
        assert gallery.get("a").metadata == {"n": None, "tags": ["x"], "m": {"deep": 1}}
        with pytest.raises(TypeError, match="metadata must be a dict"):
            gallery.update_metadata("a", 3)
        with pytest.raises(KeyError):
            gallery.update_metadata("b", {})
        assert gallery.get("a").metadata["m"] == {"deep": 1}


def test_open_files_are_images(gallery, tmp_path):
    file = png(1)
    file.seek(10)
    gallery.add("a", file)
    path = tmp_path / "b.png"
    smooth_image(1).save(path)
    with path.open("rb") as opened:
        (hit,) = gallery.search(opened, radius=0)
        assert hit.distance == 0
        assert not opened.closed
    encoded = gallery.encode([png(1), path.read_bytes(), smooth_image(1)])
    assert (encoded.codes == encoded.codes[0]).all()
    assert not encoded.errors
    with pytest.raises(TypeError):
        gallery.encode(png(1))
    with path.open(encoding="latin-1") as text, pytest.raises(TypeError, match="mode 'rb'"):
        gallery.search(text)
    closed = png(1)
    closed.close()
    with pytest.raises(ImageError, match="closed file"):
        gallery.search(closed)


def test_a_gallery_in_memory_leaves_nothing(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Gallery(":memory:", encoder=encoder) as one, Gallery(":memory:", bits=8) as other:
        one.add("a", smooth_image(1))
        assert len(other) == 0
        assert repr(one).startswith("Gallery(':memory:', 1 items, 128 bits, model 'general")
        folder = Path(one.path).parent
        assert folder.exists()
    assert not folder.exists()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GalleryError, match="a gallery in memory is always new"):
        Gallery(":memory:", create=False)


def test_a_closed_gallery_says_so():
    gallery = Gallery(":memory:", bits=8)
    assert repr(gallery) == "Gallery(':memory:', 0 items, 8 bits, your own codes)"
    gallery.close()
    assert repr(gallery) == "Gallery(':memory:', closed)"
    for call in (lambda: len(gallery), lambda: gallery.get("a"), lambda: gallery.remove("a")):
        with pytest.raises(GalleryError, match="this gallery is closed"):
            call()
    gallery.close()


def test_what_is_printed_tells(encoder):
    assert repr(encoder).startswith("Encoder('general")
    assert "128 bits" in repr(encoder)
    assert repr(encoder.encode([smooth_image(1), b""])) == "Encoded(2 images, 128 bits, 1 errors)"
    index = HammingIndex(bits=8)
    index.add(np.zeros((1234, 1), np.uint8))
    assert repr(index) == "HammingIndex(1,234 codes, 8 bits)"


def test_searches_run_beside_an_event_loop(gallery):
    for seed in range(4):
        gallery.add(str(seed), smooth_image(seed))

    async def search_all():
        calls = (asyncio.to_thread(gallery.search, smooth_image(n), 1) for n in range(4))
        return [hits[0].key for hits in await asyncio.gather(*calls)]

    assert asyncio.run(search_all()) == ["0", "1", "2", "3"]
