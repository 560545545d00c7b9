"""Metadata: what is written can be read; what a hostile file holds is a typed error."""

import json
from contextlib import closing, suppress

import pytest

from bitgaze import Gallery, GalleryCorrupt, Item, verify_gallery
from bitgaze.gallery.items import FileState, item_crc
from bitgaze.gallery.metadata import MAX_BYTES, MAX_DEPTH, MAX_DIGITS, from_text, to_text
from galleries import BITS, codes, execute, items

CODE = codes(1)[0]


def deep(levels):
    """An object with this many levels."""
    return {"a": json.loads("[" * (levels - 1) + "]" * (levels - 1))}


TAKEN = {
    "all types": {"a": [1, -2.5, "x", True, None, {"b": {}}], "": 0},
    "lone surrogate": {"half": "\ud800", "\udfff": "whole \U0001f600"},
    "deepest": deep(MAX_DEPTH),
    "many short lists": {"a": [[]] * 1000},
    "longest integer": {"n": -(10 ** (MAX_DIGITS - 1)), "digits": "9" * 5000},
    "largest": {"a": "x" * (MAX_BYTES - len('{"a": ""}'))},
    "large float": {"n": [1e308, 5e-324]},
}
REFUSED = {
    "not a number": ({"a": [{"b": float("nan")}]}, ValueError),
    "infinity": ({"a": {"b": float("-inf")}}, ValueError),
    "too deep": (deep(MAX_DEPTH + 1), ValueError),
    "far too deep": (deep(900), ValueError),
    "long integer": ({"n": 10**MAX_DIGITS}, ValueError),
    "longer integer": ({"n": [10**4999]}, ValueError),
    "too large": ({"a": "x" * MAX_BYTES}, ValueError),
    "name twice": ({"a": {1: "x", "1": "y"}}, ValueError),
    "set": ({"a": {1}}, TypeError),
}
HOSTILE = [
    "{",
    "[1]",
    "{n:1}",
    '{"n":1,"n":2}',
    '{"a":{"n":1,"n":2}}',
    '{"n":NaN}',
    '{"n":-Infinity}',
    '{"n":1e999}',
    '{"n":' + "9" * 5000 + "}",
    '{"n":' + "[" * 900 + "]" * 900 + "}",
    '{"n":' + "[" * 1500 + "]" * 1500 + "}",
    '{"n":' + "[" * 100_000 + "]" * 100_000 + "}",
    '{"n":"' + "x" * MAX_BYTES + '"}',
    '{"n":"' + "\u20ac" * (MAX_BYTES // 3) + '"}',
]


@pytest.fixture
def gallery(path):
    with Gallery(path, bits=BITS) as gallery:
        gallery.upsert(items(3))
        yield gallery


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_written_can_be_read(gallery, name):
    metadata = TAKEN[name]
    gallery.add_code("k", CODE, metadata)
    gallery.set_metadata("item 1", metadata)
    with Gallery(gallery.path, create=False) as other:
        assert other.get("k").metadata == metadata
        assert "none" not in other
        assert len(list(other)) == 4
        (hit,) = other.search_code(CODE, 1, radius=0, where={"@key": "k"})
        assert hit.metadata == metadata
        assert other.search_code(CODE, where={"i": 0})[0].key == "item 0"
        for field in metadata:
            other.search_code(CODE, where={field: "\ud800"})
        assert set(other.fields()) == {"i", *metadata}
    assert verify_gallery(gallery.path).is_sound


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_read_is_not_written(gallery, name):
    metadata, kind = REFUSED[name]
    with pytest.raises(kind, match="metadata of 'k' cannot be represented in JSON"):
        gallery.add_code("k", CODE, metadata)
    with pytest.raises(kind):
        gallery.set_metadata("item 1", metadata)
    assert len(gallery) == 3
    assert gallery.get("item 1").metadata == {"i": 1}


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_metadata_with_a_valid_checksum_are_a_typed_error(gallery, text):
    crc = item_crc(0, "item 0", text, None, None, None, None, None)
    quoted = text.replace("'", "''")
    gallery.close()
    execute(gallery.path, f"UPDATE item SET metadata = '{quoted}', crc = {crc} WHERE slot = 0")
    with closing(Gallery(gallery.path, create=False)) as hostile:
        for use in (lambda: hostile.get("item 0"), lambda: hostile.search_code(CODE)):
            with pytest.raises(GalleryCorrupt, match="metadata"):
                use()
        with suppress(GalleryCorrupt):  # numbers are not checked where no condition compares them
            assert set(hostile.fields()) == {"i", "n"}
        with suppress(GalleryCorrupt):
            assert hostile.search_code(CODE, where={"i": -1}) == []
        with suppress(GalleryCorrupt):  # the damaged item may not be among the hits
            hostile.search_code(CODE, where={"n": {">": 10**12}})
        assert hostile.get("item 1").metadata == {"i": 1}
    found = verify_gallery(gallery.path)
    assert not found.is_sound
    assert "metadata of 'item 0'" in found.problems[0]


def test_long_keys_and_file_states_are_refused(gallery):
    gallery.add_code("k" * MAX_BYTES, CODE, {"a": "x" * (MAX_BYTES - 9)})
    with Gallery(gallery.path, create=False) as other:
        assert "none" not in other
        assert len(other.search_code(CODE, where={"z": None})) == 4
    with pytest.raises(ValueError, match="a key has more than"):
        gallery.add_code("k" * (MAX_BYTES + 1), CODE)
    for path, content in ((b"/" * (1 << 20), b"c" * 16), (b"/x", b"c" * (1 << 20))):
        with pytest.raises(TypeError, match="path and content as bytes of at most"):
            gallery.upsert([Item("f", CODE, {}, FileState(path, 1, 2, 3, content))])


@pytest.mark.parametrize("text", [' {"n":1} ', '{"n": 1.0}', '{"n":"\\ud800"}', "{}"])
def test_valid_objects_are_read(text):
    assert from_text(text) == json.loads(text)
    assert from_text(to_text(from_text(text))) == json.loads(text)
