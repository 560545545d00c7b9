"""Everyday use of a gallery: add, search, change and remove items, alone and in transactions."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inside import move

import oracle
from bitgaze import Gallery, GalleryError, ImageError, Item
from bitgaze.gallery.chunks import CHUNK_CODES
from conftest import smooth_image
from galleries import codes, items


def test_search_accepts_path_bytes_image_array_and_key(gallery, make_image):
    for seed in range(5):
        gallery.add(f"p{seed}", smooth_image(seed), {"seed": seed})
    file = make_image("query.png", seed=3)
    queries = [
        file,
        str(file),
        file.read_bytes(),
        smooth_image(3),
        np.asarray(smooth_image(3)),
        "p3",
    ]
    for query in queries:
        hits = gallery.search(query, k=2)
        assert hits[0].key == "p3"
        assert hits[0].distance == 0
        assert hits[0].metadata == {"seed": 3}
        assert hits[0].path is None
        assert hits[1].distance > 0


def test_items_persist_across_reopening(path):
    stored = items(CHUNK_CODES + 5)
    with Gallery(path) as gallery:
        gallery.upsert(stored)
    with Gallery(path, create=False) as gallery:
        assert len(gallery) == len(stored)
        assert list(gallery) == [item.key for item in stored]
        for item in (stored[0], stored[CHUNK_CODES], stored[-1]):
            found = gallery.get(item.key)
            assert np.array_equal(found.code, item.code)
            assert found.metadata == item.metadata
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # one file, and no log


def test_search_is_exact_and_respects_the_radius(gallery):
    stored = items(500)
    gallery.upsert(stored)
    query = codes(1, seed=9)[0]
    distances, positions = oracle.search(np.stack([i.code for i in stored]), query[None], 20)
    hits = gallery.search_code(query, k=20)
    assert [(hit.distance, hit.key) for hit in hits] == [
        (d, f"item {i}") for d, i in zip(distances[0], positions[0], strict=True)
    ]
    radius = int(distances[0][7])
    near = gallery.search_code(query, k=20, radius=radius)
    assert near == [hit for hit in hits if hit.distance <= radius]
    assert len(near) < 20
    assert gallery.search_code(query, radius=0) == []
    assert len(gallery.search_code(query, k=1000)) == 500


def test_keys_must_be_strings(gallery):
    gallery.upsert([Item("5", codes(1)[0])])
    for use in (
        gallery.get,
        gallery.remove,
        lambda key: move(gallery, (key, "new", None)),
        lambda key: move(gallery, ("5", key, None)),
        lambda key: gallery.add(key, smooth_image(1)),
        lambda key: gallery.upsert([Item(key, codes(1)[0])]),
    ):
        for key in (5, b"5", None, Path("5")):
            with pytest.raises(TypeError, match=f"key must be a str, got {type(key).__name__}"):
                use(key)
            assert key not in gallery
    assert list(gallery) == ["5"]


def test_an_empty_gallery_has_no_hits(gallery):
    assert len(gallery) == 0
    assert list(gallery) == []
    assert gallery.search(smooth_image(1)) == []
    assert "x" not in gallery
    assert 3 not in gallery


@given(st.lists(st.tuples(st.sampled_from(["upsert", "remove", "move"]), st.integers(0, 11))))
def test_any_sequence_of_changes_behaves_like_a_dict(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("model") / "g.bitgaze"
    expected = {}
    with Gallery(path) as gallery:
        for number, (step, which) in enumerate(steps):
            key = f"k{which}"
            if step == "upsert":
                item = Item(key, codes(1, seed=number)[0], {"n": number})
                gallery.upsert([item])
                expected[key] = item
            elif key not in expected:
                with pytest.raises(KeyError, match=key):
                    gallery.remove(key) if step == "remove" else move(gallery, (key, "other", None))
            elif step == "remove":
                gallery.remove(key)
                del expected[key]
            else:
                target = f"k{(which + 1) % 12}"
                if target in expected:
                    with pytest.raises(GalleryError, match="already in use"):
                        move(gallery, (key, target, None))
                else:
                    move(gallery, (key, target, None))
                    old = expected.pop(key)
                    expected[target] = Item(target, old.code, old.metadata)
    with Gallery(path, create=False) as gallery:
        assert set(gallery) == set(expected)
        for key, item in expected.items():
            assert np.array_equal(gallery.get(key).code, item.code)
            assert gallery.get(key).metadata == item.metadata
            assert gallery.search(key, k=1)[0].distance == 0


def test_a_failed_change_changes_nothing(gallery):
    gallery.upsert(items(3))
    before = gallery.search_code(codes(1)[0])
    invalid = [
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], {"a": object()})]),
        (ValueError, [Item("new", codes(1)[0]), Item("x", codes(1)[0][:8])]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0].astype(int))]),
        (ValueError, [Item("new", codes(1)[0]), Item("\udcff", codes(1)[0])]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], None)]),
        (TypeError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], [1])]),
        (TypeError, [Item("new", codes(1)[0]), Item(5, codes(1)[0])]),
        (ValueError, [Item("new", codes(1)[0]), Item("x", codes(1)[0], {"a": float("nan")})]),
    ]
    for error, batch in invalid:
        with pytest.raises(error):
            gallery.upsert(batch)
        assert gallery.search_code(codes(1)[0]) == before
        assert "new" not in gallery
    with pytest.raises(KeyError, match="no item 'none'"):
        gallery.remove("item 0", "none")
    assert "item 0" in gallery


def test_add_rejects_a_key_in_use_and_a_broken_image(gallery):
    gallery.add("a", smooth_image(1))
    with pytest.raises(
        GalleryError, match="key 'a' is already in use; choose another or remove the item"
    ):
        gallery.add("a", smooth_image(2))
    with pytest.raises(ImageError, match="not an image"):
        gallery.add("b", b"broken")
    assert list(gallery) == ["a"]


def test_a_transaction_is_atomic(path):
    with Gallery(path) as gallery, Gallery(path) as other:
        gallery.upsert(items(3))
        with gallery.transaction():
            gallery.remove("item 0")
            gallery.upsert([Item("new", codes(1, seed=5)[0])])
            assert gallery.search("new", k=1)[0].distance == 0
            assert "item 0" in other
        for reader in (gallery, other):
            assert list(reader) == ["item 2", "item 1", "new"]

        def fail(caught=()):
            with gallery.transaction():
                gallery.remove("item 1")
                with suppress(caught):
                    gallery.remove("none")

        with pytest.raises(KeyError, match="none"):
            fail()
        with pytest.raises(GalleryError, match="rolled back, because a call inside it failed"):
            fail(caught=KeyError)
        with pytest.raises(UnicodeDecodeError), gallery.transaction():
            b"\xff".decode()  # not an error of the file, so it is not translated
        for reader in (gallery, other):
            assert list(reader) == ["item 2", "item 1", "new"]
            assert gallery.search_code(codes(1, seed=5)[0], k=1)[0].key == "new"


def test_items_can_swap_keys(gallery):
    gallery.upsert(items(3))
    before = {key: gallery.get(key) for key in gallery}
    move(gallery, ("item 0", "item 1", None), ("item 1", "item 0", None), ("item 2", "new", None))
    for key, old in [("item 0", "item 1"), ("item 1", "item 0"), ("new", "item 2")]:
        assert np.array_equal(gallery.get(key).code, before[old].code)
        assert gallery.get(key).metadata == before[old].metadata
    for moves, error in [
        ([("item 0", "a", None), ("item 1", "a", None)], GalleryError),
        ([("item 0", "a", None), ("item 1", "new", None)], GalleryError),
        ([("item 0", "a", None), ("item 0", "b", None)], ValueError),
        ([("item 0", "a", None), ("a", "b", None)], KeyError),
    ]:
        with pytest.raises(error):
            move(gallery, *moves)
        assert list(gallery) == ["item 1", "item 0", "new"]


def test_a_removed_item_leaves_no_bytes_in_the_file(path):
    stored = items(20)
    with Gallery(path) as gallery:
        gallery.upsert(stored)
        gallery.upsert([Item("the secret key", codes(1, seed=77)[0], {"the secret": "metadata"})])
        gallery.upsert([Item("after it", codes(1, seed=78)[0])])
        gallery.remove("the secret key")
    content = path.read_bytes()
    assert b"the secret" not in content
    assert codes(1, seed=77)[0].tobytes() not in content
    assert codes(1, seed=78)[0].tobytes() in content


def test_a_removed_item_leaves_no_bytes_in_the_log(path):
    def is_found():
        return any(b"the secret" in file.read_bytes() for file in path.parent.iterdir())

    secret = Item("the secret key", codes(1, seed=77)[0], {"the secret": "metadata"})
    with Gallery(path) as writer, Gallery(path) as reader:
        writer.upsert([*items(20), secret])
        assert secret.key in reader
        assert is_found()
        writer.remove(secret.key)
        assert not is_found()
        assert len(reader) == 20
        writer.upsert([secret])
        with reader._store.reading():  # its snapshot needs the log, so the bytes stay for now
            assert secret.key in reader
            writer.remove(secret.key)
            assert secret.key in reader
        writer.remove("item 0")
        assert not is_found()
        assert len(reader) == 19


def test_invalid_arguments_are_rejected(gallery, tmp_path):
    gallery.upsert(items(3))
    with pytest.raises(ValueError, match="k"):
        gallery.search("item 0", k=0)
    with pytest.raises(ValueError, match="radius must be at least 0, got -1"):
        gallery.search("item 0", radius=-1)
    with pytest.raises(ImageError, match="No such file"):
        gallery.search("no such key or file")
    with pytest.raises(KeyError, match="no item 'x'"):
        gallery.get("x")
    with pytest.raises(GalleryError, match="no such gallery; create it with `bitgaze index"):
        Gallery(tmp_path / "none.bitgaze", create=False)
    assert not (tmp_path / "none.bitgaze").exists()
    with pytest.raises(GalleryError, match="none does not exist; create it first"):
        Gallery(tmp_path / "none" / "a.bitgaze")


def test_a_closed_gallery_raises(path):
    gallery = Gallery(path)
    gallery.close()
    with pytest.raises(GalleryError, match="closed"):
        len(gallery)


def test_every_name_is_taken_as_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "./:memory:",
        "file:x?mode=memory",
        "100% \u00fc.bitgaze",
        b"\xff#".decode("utf-8", "surrogateescape"),
    ):
        with Gallery(name) as gallery:
            gallery.upsert(items(3))
        with Gallery(name, create=False) as gallery:
            assert len(gallery) == 3
        (tmp_path / name).unlink()
