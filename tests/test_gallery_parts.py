"""What the store keeps beside codes: looks, structural codes, properties, thumbnails, pairs."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from bitgaze import Gallery, GalleryCorrupt, Item, repair, verify_gallery
from bitgaze.gallery.chunks import SLOTS
from bitgaze.gallery.info import ModelInfo
from bitgaze.gallery.items import FileState
from bitgaze.gallery.store import Store
from galleries import execute

BITS, LOOKS, STRUCTURE = 64, 3, 256
MODEL = ModelInfo("", "", BITS, None, LOOKS, STRUCTURE)


def opened(path, model=MODEL):
    return closing(Store(path, lambda: model, 5.0))


def full_items(count, seed=0):
    """Items with 0 to 3 looks, some with everything, some with nothing."""
    rng = np.random.default_rng(seed)

    def some_bytes(*shape):
        return rng.integers(0, 256, shape, np.uint8)

    found = []
    for n in range(count):
        looks = n % (LOOKS + 1)
        boxes = np.sort(rng.integers(0, 65536, (looks, 4)), axis=1) / 65535
        found.append(
            Item(
                f"k{n}",
                some_bytes(BITS // 8),
                {"n": n},
                FileState(b"/p/%d" % n, n, n, n, bytes(16)) if n % 2 else None,
                some_bytes(looks, BITS // 8),
                boxes.astype(np.float32),
                some_bytes(STRUCTURE // 8) if n % 3 else None,
                {"camera": "x", "n": n} if n % 5 else None,
                bytes([1, 1, n % 256, 3, 7]) if n % 7 else None,
            )
        )
    return found


def equal(one, other):
    arrays = all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("code", "boxes")
    )
    looks = len(one.looks) == len(other.looks) and bytes(one.looks) == bytes(other.looks)
    structures = one.structure is other.structure is None or bytes(one.structure) == bytes(
        other.structure
    )
    names = ("key", "metadata", "file", "properties", "classes")
    same = all(getattr(one, name) == getattr(other, name) for name in names)
    return arrays and looks and structures and same


def check(path, expected):
    """The file holds exactly these items, in any order of slots, and is sound."""
    with opened(path) as store, store.reading():
        assert len(store.index) == len(expected)
        assert store.views.views == 1 + LOOKS
        for slot in range(len(expected)):
            item = store.item(slot)
            assert equal(item, expected[item.key])
            places = [*item.looks, *[item.code] * (LOOKS - len(item.looks))]
            assert (store.views[slot] == [item.code, *places]).all()
            assert store.structure[slot].any() == (item.structure is not None)
    assert verify_gallery(path).problems == ()


def test_items_keep_their_parts_through_random_changes(path):
    rng = np.random.default_rng(1)
    expected = {item.key: item for item in full_items(2500)}
    with opened(path) as store:
        with store.writing():
            for item in expected.values():
                store.put(item)
        for item in full_items(300, seed=2):
            with store.writing():
                if rng.random() < 0.3:
                    key = str(rng.choice(list(expected)))
                    store.delete(key)
                    del expected[key]
                else:
                    key = f"k{rng.integers(2600)}"
                    same = {name: getattr(item, name) for name in ("code", "looks", "boxes")}
                    expected[key] = Item(key, **same, structure=item.structure)
                    store.put(expected[key])
    check(path, expected)
    repaired = path.with_name("repaired.bitgaze")
    assert repair(path, repaired).kept == len(expected)
    check(repaired, expected)


def test_a_gallery_without_looks_stores_none(path):
    with opened(path, ModelInfo("", "", BITS, None)) as store, store.writing():
        item = full_items(4)[3]
        with pytest.raises(ValueError, match="'k3' has 3 looks, but this gallery has places for 0"):
            store.put(item)
    with opened(path, None) as store, store.reading():
        assert store.views is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"looks": np.zeros((4, 8), np.uint8)}, ValueError, "4 looks, .* places for 3"),
        ({"looks": np.zeros((2, 8), np.uint8)}, ValueError, r"shape \(0, 4\), expected \(2, 4\)"),
        ({"boxes": np.zeros((1, 4), np.float32)}, ValueError, "a box for each look"),
        (
            {"looks": np.zeros((1, 8), np.uint8), "boxes": np.full((1, 4), 1.5)},
            ValueError,
            "from 0 to 1",
        ),
        (
            {"looks": np.zeros((1, 8), np.uint8), "boxes": np.full((1, 4), np.nan)},
            ValueError,
            "from 0 to 1",
        ),
        (
            {"looks": np.zeros((1, 9), np.uint8), "boxes": np.zeros((1, 4))},
            ValueError,
            r"shape \(1, 9\), expected \(1, 8\)",
        ),
        ({"looks": np.zeros((1, 8)), "boxes": np.zeros((1, 4))}, TypeError, "looks"),
        ({"structure": np.zeros(8, np.uint8)}, ValueError, r"\(8,\), expected \(32,\)"),
        ({"properties": {1: 2}}, TypeError, "field names in properties of 'k' must be str"),
        ({"properties": {"x": float("nan")}}, ValueError, "properties of 'k' cannot be"),
        ({"classes": "x"}, TypeError, "classes of 'k' must be bytes"),
    ],
)
def test_invalid_parts_are_refused(path, change, error, message):
    with opened(path) as store:
        with pytest.raises(error, match=message), store.writing():
            store.put(Item("k", np.zeros(8, np.uint8), **change))
        with store.reading():
            assert len(store.index) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("UPDATE look_chunk SET codes = zeroblob(length(codes)) WHERE n = 1", "look_chunk 1 of"),
        ("DELETE FROM look_chunk WHERE n = 0", "look_chunk 0 of the codes is missing"),
        ("DELETE FROM look_chunk WHERE n = 2", "holds 2100 items but 2048 rows in look_chunk"),
        ("UPDATE structure_chunk SET crc = crc + 1 WHERE n = 0", "structure_chunk 0"),
        ("DELETE FROM structure_chunk", "2100 items but 0 rows in structure_chunk"),
    ],
)
def test_damaged_chunks_raise_a_typed_error(path, damage, message):
    with opened(path) as store, store.writing():
        for item in full_items(2100):
            store.put(item)
    execute(path, damage)
    with opened(path) as store, pytest.raises(GalleryCorrupt, match=message), store.reading():
        pass
    assert message.split()[0] in verify_gallery(path).problems[0]


@pytest.mark.parametrize(
    "damage",
    ["boxes = x'00'", "boxes = NULL", "classes = 'x'", "properties = '{}'", "classes = x'01'"],
)
def test_damaged_columns_raise_a_typed_error(path, damage):
    with opened(path) as store, store.writing():
        for item in full_items(12):
            store.put(item)
    execute(path, f"UPDATE item SET {damage} WHERE slot = 11")
    with opened(path) as store, store.reading():
        assert store.item(10).key == "k10"
        with pytest.raises(GalleryCorrupt, match="the item in slot 11 is damaged"):
            store.item(11)
        with pytest.raises(GalleryCorrupt, match="the item in slot 11 is damaged"):
            store.keys()
    assert "the item in slot 11 is damaged" in verify_gallery(path).problems[0]


def test_repair_keeps_items_whose_looks_are_lost(path):
    stored = full_items(1500)
    with opened(path) as store, store.writing():
        for item in stored:
            store.put(item)
    execute(
        path,
        "UPDATE look_chunk SET crc = 0 WHERE n = 1",
        "UPDATE structure_chunk SET crc = 0 WHERE n = 0",
    )
    report = repair(path, path.with_name("repaired.bitgaze"))
    first = SLOTS["look_chunk"]
    reduced = {n for n in range(1500) if n < first or n % (LOOKS + 1)}
    assert set(report.reduced) == {f"k{n}" for n in reduced}
    assert (report.kept, report.lost) == (1500 - len(reduced), {})
    no_boxes = np.empty((0, 4), np.float32)
    expected = [
        replace(item, structure=None)
        if n < first
        else replace(item, looks=np.empty((0, 0), np.uint8), boxes=no_boxes)
        for n, item in enumerate(stored)
    ]
    check(path.with_name("repaired.bitgaze"), {item.key: item for item in expected})


def test_repair_keeps_all_parts_of_sound_items(path):
    stored = full_items(1500)
    pair = bytes([1] * 16), bytes([2] * 16)
    with opened(path) as store, store.writing():
        for slot, item in enumerate(stored):
            store.put(item)
            store.set_thumbnail(slot, b"image of " + item.key.encode())
        store.set_distinct(*pair)
        store.set_distinct(bytes([3] * 16), pair[0])
    execute(
        path,
        "UPDATE item SET metadata = '{}' WHERE slot = 3",
        "UPDATE thumbnail SET crc = 0 WHERE slot = 5",
        "UPDATE distinct_pair SET crc = 0 WHERE second = zeroblob(0) OR hex(second) LIKE '03%'",
    )
    out = path.with_name("repaired.bitgaze")
    report = repair(path, out)
    assert (report.kept, report.unreadable, report.reduced) == (1499, 1, [])
    check(out, {item.key: item for item in stored if item.key != "k3"})
    with opened(out) as store, store.reading():
        assert store.distinct_pairs() == {pair}
        for key in ("k0", "k4", "k1499"):
            assert store.thumbnail(store.slot(key)) == b"image of " + key.encode()
        assert store.thumbnail(store.slot("k5")) is None


def test_repair_encodes_a_damaged_code_and_keeps_the_rest(tmp_path, make_image, encoder):
    file = make_image("a.png")
    path = tmp_path / "g.bitgaze"
    with Gallery(path, encoder=encoder) as gallery:
        gallery.sync(tmp_path)
    model = ModelInfo(encoder.fingerprint, "m", encoder.bits, None, LOOKS, STRUCTURE)
    rich = tmp_path / "rich.bitgaze"
    rng = np.random.default_rng(0)
    with Gallery(path) as gallery, opened(rich, model) as store, store.writing():
        item = replace(
            gallery.get(str(file)),
            looks=rng.integers(0, 256, (2, encoder.bits // 8), np.uint8),
            boxes=np.array([[0, 0, 0.2, 1], [0, 0.4, 1, 1]], np.float32),
            structure=rng.integers(0, 256, STRUCTURE // 8, np.uint8),
            properties={"camera": "x"},
            classes=b"\1\1\5\0\7",
        )
        store.put(item)
        store.set_thumbnail(0, b"image")
    execute(rich, "UPDATE chunk SET codes = zeroblob(length(codes))")
    report = repair(rich, tmp_path / "repaired.bitgaze", encoder=encoder)
    assert (report.encoded, report.reduced, report.kept) == ([str(file)], [], 0)
    with opened(tmp_path / "repaired.bitgaze") as store, store.reading():
        assert equal(store.item(0), item)
        assert store.thumbnail(0) == b"image"


def test_a_gallery_of_an_older_version_takes_new_images(tmp_path, make_image, encoder):
    """It keeps no structural codes and no looks."""
    files = [make_image(f"images/{n}.png", seed=n) for n in range(3)]
    old = tmp_path / "old.bitgaze"
    with opened(old, ModelInfo(encoder.fingerprint, "m", encoder.bits, None)):
        pass
    with Gallery(old, encoder=encoder) as gallery:
        assert len(gallery.sync(tmp_path / "images").added) == 3
        gallery.add("by hand", files[0])
        assert (gallery.looks, gallery.has_structure) == (0, False)
        for ranking in ("hamming", "asymmetric"):
            hits = gallery.search(files[1], ranking=ranking)
            assert [hit.same_image for hit in hits] == [1, None, None, None]
        assert gallery.explain(files[1], str(files[2])).width == 872
        groups = gallery.duplicates(0)
        assert [len(group.others) for group in groups] == [1]
    assert verify_gallery(old).is_sound


def test_thumbnails_follow_their_items(path):
    stored = full_items(5)
    with opened(path) as store:
        with store.writing():
            for slot, item in enumerate(stored):
                store.put(item)
                store.set_thumbnail(slot, b"image of " + item.key.encode())
        with store.writing():
            store.delete("k1")
            store.move([("k2", "renamed", None)])
            store.put(Item("k3", stored[3].code, {"other": 1}))
            store.put(Item("k0", stored[1].code))
        with store.reading():
            found = {store.item(slot).key: store.thumbnail(slot) for slot in range(4)}
    assert found == {
        "k0": None,  # another image
        "k4": b"image of k4",
        "renamed": b"image of k2",
        "k3": b"image of k3",
    }
    assert b"image of k1" not in path.read_bytes()
    assert verify_gallery(path).is_sound
    execute(path, "UPDATE thumbnail SET slot = 9 WHERE slot = 2", "UPDATE thumbnail SET crc = 0")
    with opened(path) as store, store.reading(), pytest.raises(GalleryCorrupt, match="thumbnail"):
        store.thumbnail(1)
    assert any("slot 9 belongs to no item" in problem for problem in verify_gallery(path).problems)


def test_distinct_pairs_are_remembered(path):
    one, two, three = (bytes([n] * 16) for n in (1, 2, 3))
    with opened(path) as store:
        with store.writing():
            store.set_distinct(two, one)
            store.set_distinct(one, two)
            store.set_distinct(three, two)
            store.set_distinct(three, two, are_distinct=False)
        with pytest.raises(ValueError, match="two different identities"), store.writing():
            store.set_distinct(one, one)
    with opened(path) as store, store.reading():
        assert store.distinct_pairs() == {(one, two)}
    execute(path, "UPDATE distinct_pair SET second = zeroblob(16)")
    with opened(path) as store, store.reading(), pytest.raises(GalleryCorrupt, match="a pair of"):
        store.distinct_pairs()
    assert "a pair of distinct images is damaged" in verify_gallery(path).problems[0]


def test_pairs_follow_their_images_and_leave_with_them(path):
    def identity(store, key):
        return next(ref.identity for ref in store.image_refs() if ref.key == key)

    def file(n):
        return FileState(b"/p/%d" % n, n, n, n, bytes([n // 2] * 16))

    code = np.zeros(BITS // 8, np.uint8)
    files = [Item(f"f{n}", code, file=file(n)) for n in range(2, 10)]  # each image twice
    hands = [Item(f"h{n}", code) for n in range(4)]
    with opened(path) as store:
        with store.writing():
            for item in (*files, *hands):
                store.put(item)
            ids = {ref.key: ref.identity for ref in store.image_refs()}
            for one, other in (("f2", "f4"), ("f6", "h0"), ("f8", "h1"), ("h2", "h3")):
                store.set_distinct(ids[one], ids[other])
        with store.writing():
            store.delete("f2")  # f3 has the same image
            store.put(Item("h2", code, {"other": 1}))
            store.move([("h0", "renamed", None)])
        with store.writing():
            renamed = identity(store, "renamed")
            expected = {("f3", "f4"), ("f6", "renamed"), ("f8", "h1"), ("h2", "h3")}
            ids["renamed"] = renamed
            pairs = {tuple(sorted((ids[one], ids[other]))) for one, other in expected}
            assert store.distinct_pairs() == pairs
            store.delete("f3")
            store.put(replace(files[6], file=file(20)))  # the file holds another image: f8
            store.put(replace(files[7], file=file(21)))
            store.delete("h2")
            store.put(hands[2])  # as it was
        with store.writing():
            pairs = {("f6", "renamed"), ("h2", "h3")}
            pairs = {tuple(sorted((ids[one], ids[other]))) for one, other in pairs}
            assert store.distinct_pairs() == pairs
            store.replace_codes(~store.views[:], None, None)  # as adapt does
        with store.writing():
            ids = {ref.key: ref.identity for ref in store.image_refs()}
            pairs = {("f6", "renamed"), ("h2", "h3")}
            pairs = {tuple(sorted((ids[one], ids[other]))) for one, other in pairs}
            assert store.distinct_pairs() == pairs
            store.put(Item("h3", code))
            store.delete("f6")
            store.delete("f7")
        with store.reading():
            assert store.distinct_pairs() == set()
