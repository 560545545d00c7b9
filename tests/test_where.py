"""Conditions on metadata, compared with plain Python, and the arguments they reject."""

import json
import random
import sqlite3
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitgaze import Gallery, WhereError
from bitgaze.cli.main import main
from bitgaze.gallery import texts
from bitgaze.gallery.column import ABSENT, Column
from bitgaze.gallery.filters import conditions, like

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 2**64, -(2**70)]),
    st.sampled_from([0.0, 0.5, 1.0, -1.5, 1e300]),
    st.sampled_from(["", "a", "A", "ab", "b%", "a_b", "é", "É", "\u212a", "1", "null", "a\nb"]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.just({"a": 1}))


def equal(value, wanted):
    if isinstance(value, bool) or isinstance(wanted, bool) or value is None or wanted is None:
        return value is wanted
    return value == wanted


COMPARE = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def meets(value, operator, operand):
    """What the documentation says, written out in Python."""
    if operator == "!=":
        return not meets(value, "in", [operand])
    value = None if value is ABSENT else value
    if isinstance(value, list):
        return any(not isinstance(e, list) and meets(e, operator, operand) for e in value)
    if isinstance(value, dict):
        return False
    if operator == "in":
        return any(equal(value, wanted) for wanted in operand)
    if operator == "like":
        return isinstance(value, str) and sqlite_like(value, operand)
    for kind in (str, (int, float)):
        if isinstance(operand, kind):
            is_same_kind = isinstance(value, kind) and not isinstance(value, bool)
            value, operand = (
                unicodedata.normalize("NFC", one) if isinstance(one, str) else one
                for one in (value, operand)
            )
            return is_same_kind and COMPARE[operator](value, operand)
    raise AssertionError


def sqlite_like(text, pattern):
    with sqlite3.connect(":memory:") as db:
        found = db.execute("SELECT ? LIKE ?", (text, pattern)).fetchone()[0] == 1
    db.close()
    return found


def columns(values):
    return Column.from_bytes(Column.of(values).to_bytes())


@given(st.lists(st.one_of(VALUES, st.just(ABSENT)), max_size=12), st.lists(SCALARS, max_size=3))
def test_in_matches_equal_values(values, wanted):
    (condition,) = conditions({"f": {"in": wanted}})
    expected = [meets(value, "in", wanted) for value in values]
    assert columns(values).matches(condition).tolist() == expected


@given(st.lists(st.one_of(VALUES, st.just(ABSENT)), max_size=12), SCALARS)
def test_not_equal_negates_equality(values, wanted):
    (condition,) = conditions({"f": {"!=": wanted}})
    expected = [meets(value, "!=", wanted) for value in values]
    assert columns(values).matches(condition).tolist() == expected


@given(
    st.lists(st.one_of(VALUES, st.just(ABSENT)), max_size=12),
    st.sampled_from(["<", "<=", ">", ">="]),
    SCALARS.filter(lambda v: v is not None and not isinstance(v, bool)),
)
def test_ranges_compare_within_one_type(values, operator, operand):
    (condition,) = conditions({"f": {operator: operand}})
    expected = [meets(value, operator, operand) for value in values]
    assert columns(values).matches(condition).tolist() == expected


@given(st.text("aAb%_\n\u212akKé.*", max_size=6), st.text("aAb%_\n\u212akK.*", max_size=5))
def test_like_matches_as_in_sqlite(text, pattern):
    assert bool(like(pattern)(text)) == sqlite_like(text, pattern)


LETTERS = st.text("aAb%_\n\u212akKé.\U0001f600\ud800", max_size=8)


@given(
    st.lists(LETTERS, max_size=8, unique=True),
    st.text("aAb%_\nkKé.\ud800", max_size=7),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_a_pattern_finds_the_same_of_many_strings(strings, pattern, few, parts):
    """Whichever way: one by one or all at once, with as many parts as are looked for or more."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    ends = np.cumsum(list(map(len, encoded)), dtype=np.uint32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_FEW", few)
        patch.setattr(texts, "_MAX_PARTS", parts)
        found = texts.Pattern(pattern).numbers(texts.Texts(b"".join(encoded), ends))
    assert found.tolist() == [n for n, text in enumerate(strings) if like(pattern)(text)]


def test_like_does_not_backtrack():
    # Backtracking would not end: 30 wildcards can match 200 letters in more than 10^30 ways.
    assert not like("%a" * 30 + "%b")("a" * 200)
    assert like("%a" * 30 + "%b")("a" * 200 + "b")


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        ("album", TypeError, "where must be a dict, got str"),
        ("", TypeError, "where must be a dict, got str"),
        ([], TypeError, "where must be a dict, got list"),
        ({1: 2}, TypeError, "fields of where must be str, got int"),
        ({"f": {}}, ValueError, r"where\['f'\] has no operator, expected one of in, !="),
        ({"f": {"==": 1}}, ValueError, "has operator '==', expected one of in, !=, like"),
        ({"f": [1, 2]}, ValueError, r'one of several values, use \{"in": \[...\]\}'),
        ({"f": {"in": "abc"}}, ValueError, "'abc', expected a list of values"),
        ({"f": {"in": 3}}, ValueError, "expected a list of values"),
        ({"f": {"in": [[1]]}}, ValueError, "compared with"),
        ({"f": {"<": None}}, ValueError, "expected a number or a string"),
        ({"f": {"<": True}}, ValueError, "expected a number or a string"),
        ({"f": {"like": 3}}, ValueError, "expected a string in which %"),
        ({"f": float("nan")}, ValueError, "NaN"),
        ({"f": {">": float("nan")}}, ValueError, "NaN"),
        ({"f": {"like": "a\0%"}}, ValueError, "must not contain a NUL character"),
        (
            {"@key": {"like": "%a" * 30_000}},
            ValueError,
            "has 60,000 bytes in UTF-8, expected at most 50,000",
        ),
        ({"f": object()}, ValueError, "expected a string, a number"),
    ],
)
def test_invalid_conditions_are_rejected(where, error, message, tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=8) as gallery:
        gallery.add_code("a", np.zeros(1, np.uint8))
        with pytest.raises(error, match=message):
            gallery.search_code(np.zeros(1, np.uint8), where=where)
        assert len(gallery.search_code(np.zeros(1, np.uint8))) == 1


# In a gallery


@pytest.fixture
def shop(tmp_path):
    with Gallery(tmp_path / "shop.bitgaze", bits=16) as gallery:
        rng = np.random.default_rng(0)
        with gallery.transaction():
            for n in range(60):
                metadata = {"price": n, "shelf": f"s{n % 3}", 'odd "name"': n % 2, "größe": n % 5}
                gallery.add_code(f"{n:02}", rng.integers(0, 256, 2, np.uint8), metadata)
        yield gallery


CODE = np.array([0, 255], np.uint8)


def keys(gallery, where, **options):
    return {hit.key for hit in gallery.search_code(CODE, k=1000, where=where, **options)}


def test_all_conditions_must_hold(shop):
    assert keys(shop, {"shelf": "s1"}) == {f"{n:02}" for n in range(1, 60, 3)}
    where = {"shelf": "s1", "price": {">=": 10, "<": 20}}
    assert keys(shop, where) == {"10", "13", "16", "19"}
    with pytest.raises(WhereError, match="no item has a field 'nothing'"):
        keys(shop, {"nothing": "such"})
    assert len(keys(shop, {"nothing": None})) == 60


@pytest.mark.parametrize("name", ['odd "name"', "größe", "", "$", "a.b", "[0]", "1", "a\\b", "x y"])
def test_a_field_can_have_any_name(shop, name):
    shop.set_metadata("05", {name: "here"})
    shop.set_metadata("06", {name: ["not", "here"]})
    assert keys(shop, {name: "here"}) == {"05", "06"}
    shop.close()
    with Gallery(shop.path) as again:
        assert keys(again, {name: "here"}) == {"05", "06"}


def test_conditions_on_the_key(shop):
    assert keys(shop, {"@key": "07"}) == {"07"}
    assert keys(shop, {"@key": {"like": "1_"}}) == {f"{n}" for n in range(10, 20)}
    assert keys(shop, {"@key": {">=": "58"}}) == {"58", "59"}
    assert keys(shop, {"@key": {"in": ["03", "99", 4, None]}}) == {"03"}
    assert len(keys(shop, {"@key": {"!=": "03"}})) == 59
    assert keys(shop, {"@key": "' OR 1=1 --"}) == set()
    assert keys(shop, {"@key": "\ud800"}) == keys(shop, {"@key": {"like": "\ud800%"}}) == set()
    assert len(keys(shop, {"@key": {"!=": "\ud800"}})) == 60


def test_hits_are_the_nearest_among_matching_items(shop):
    every = shop.search_code(CODE, k=60)
    allowed = [hit for hit in every if hit.metadata["shelf"] == "s2"]
    assert shop.search_code(CODE, k=5, where={"shelf": "s2"}) == allowed[:5]
    radius = allowed[3].distance
    within = [hit for hit in allowed if hit.distance <= radius]
    assert shop.search_code(CODE, k=60, where={"shelf": "s2"}, radius=radius) == within
    codes = np.stack([CODE, ~CODE])
    batch = shop.search_codes(codes, k=4, where={"shelf": "s2"})
    assert batch == [shop.search_code(code, k=4, where={"shelf": "s2"}) for code in codes]


def test_filters_see_changes_immediately(shop):
    """In any order of reads and writes, as if the field were read again each time."""
    rng = random.Random(0)
    other = Gallery(shop.path)
    for step in range(200):
        writer = other if rng.random() < 0.2 else shop
        present = list(writer)
        match rng.randrange(4):
            case 0:
                writer.add_code(f"new {step}", CODE, {"shelf": f"s{step % 4}", "price": step})
            case 1 if len(present) > 5:
                writer.remove(*rng.sample(present, 2))
            case 2:
                writer.set_metadata(rng.choice(present), {"shelf": "s1"})
            case 3:
                writer.rename(rng.choice(present), f"renamed {step}")
        expected = {k for k in shop if shop.get(k).metadata.get("shelf") == "s1"}
        assert keys(shop, {"shelf": "s1"}) == expected
        dear = {k for k in shop if shop.get(k).metadata.get("price", -1) > 30}
        assert keys(shop, {"price": {">": 30}}) == dear
    other.close()


def test_filters_follow_many_changes_and_a_rollback(shop, monkeypatch):
    monkeypatch.setattr("bitgaze.gallery.columns._MAX_CHANGED", 3)
    before = keys(shop, {"shelf": "s1"})

    def change_and_fail():
        with shop.transaction():
            for n in range(20):
                shop.set_metadata(f"{n:02}", {"shelf": "s1"})
            assert len(keys(shop, {"shelf": "s1"})) > len(before)
            raise RuntimeError("roll back")

    with pytest.raises(RuntimeError, match="roll back"):
        change_and_fail()
    assert keys(shop, {"shelf": "s1"}) == before


# On the command line


def test_where_on_the_command_line(tmp_path, make_image, capsys):
    path = tmp_path / "g.bitgaze"
    keys = [str(make_image(f"photos/{n}.png", seed=n)) for n in range(4)]
    with Gallery(path) as gallery:
        gallery.sync(tmp_path / "photos")
        for n, key in enumerate(keys):
            gallery.set_metadata(key, {"year": 2020 + n, "name": f"Img {n}", "tag": ["a", str(n)]})

    def found(*conditions):
        options = [word for condition in conditions for word in ("--where", condition)]
        assert main(["search", keys[0], "-g", str(path), "--json", *options]) == 0
        hits = json.loads(capsys.readouterr().out)["hits"]
        return {int(hit["key"][-5]) for hit in hits}

    assert found("year=2021") == {1}
    assert found("year>=2021", "year<2023") == {1, 2}
    assert found("year!=2021", "name~img%") == {0, 2, 3}
    assert found("year=[2020, 2023]") == {0, 3}
    assert found("year <= 2020") == {0}
    assert found('name="Img 2"') == {2}
    assert found("name=Img 2") == {2}
    assert found('tag=["1", "2"]') == {1, 2}
    assert found("@key~%3.png") == {3}
    for condition, message in [
        ("year", "expected FIELD=VALUE"),
        ("=3", "expected FIELD=VALUE"),
        ("year==2021", "expected FIELD=VALUE"),
        ("year>>2021", "expected FIELD=VALUE"),
        ("year>[1]", "expected a number or a string"),
        ("year<null", "expected a number or a string"),
    ]:
        assert main(["search", keys[0], "-g", str(path), "--where", condition]) == 2
        assert message in capsys.readouterr().err


def test_keys_compare_like_other_strings(shop):
    """Each condition finds the same items on the key as on a field that holds a copy of it."""
    keys_ = ["img", "img\0x", "IMG 2", "i\0", "\ue000", "\U0001f600", "z"]
    with shop.transaction():
        for key in keys_:
            shop.add_code(key, CODE, {"copy": key})
    operands = ["%x", "img", "img_x", "i%", "%", "\ud800", "\ud800%", "m", "i\ue000"]
    tried = [{op: text} for op in ("like", "<", "<=", ">", ">=") for text in operands]
    tried += [{"in": operands}, {"!=": "img"}]
    for condition in tried:
        by_copy = keys(shop, {"copy": condition, "@key": {"in": keys_}})
        assert keys(shop, {"@key": condition}) & set(keys_) == by_copy, condition


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_composed_and_decomposed_spellings_are_equal(path, stored, asked):
    def spelled(form, text="Caf\u00e9 \u00c5"):
        return unicodedata.normalize(form, text)

    with Gallery(path, bits=8 * len(CODE)) as gallery:
        name = spelled(stored)
        gallery.add_code(name, CODE, {"place": name, "tags": [name, "x"]})
        gallery.add_code("other", CODE, {"place": "Cafe A"})
        word = spelled(asked)
        for where in (
            {"place": word},
            {"place": {"like": word[:5] + "%"}},
            {"place": {">=": word, "<=": word}},
            {"tags": {"in": ["y", word]}},
            {"@key": word},
            {"@key": {"like": word + "%"}},
        ):
            assert keys(gallery, where) == {name}, where
        for where in ({"place": {"!=": word}}, {"@key": {"!=": word}}):
            assert keys(gallery, where) == {"other"}
