"""Kept columns: always the same answers as the items, whatever was written; damage is noticed."""

import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from bitgaze import Gallery, GalleryCorrupt, Item, WhereError, verify_gallery
from bitgaze.gallery import columns
from bitgaze.gallery.column import ABSENT, Column
from bitgaze.gallery.filters import RANGE_OPERATORS, conditions
from galleries import execute
from test_where import SCALARS, VALUES, meets

CODE = np.zeros(1, np.uint8)
MAYBE = st.one_of(VALUES, st.just(ABSENT), st.sampled_from([2**63, -(2**63), "\ud800", -0.0]))
WHERES = [
    {"a": {"in": [1, "a", None, True]}},
    {"a": {"!=": 0}},
    {"a": {">=": "a"}},
    {"b": {"<": 2.5}},
    {"b": {"like": "%a%"}},
    {"c": 1, "a": {"!=": "b"}},
]


def keys(gallery, where):
    return {hit.key for hit in gallery.search_code(CODE, k=10_000, where=where)}


def expected_keys(items, where):
    return {
        key
        for key, metadata in items.items()
        if all(meets(metadata.get(c.field, None), c.operator, c.operand) for c in conditions(where))
    }


def is_refused(items, where):
    """Whether a field is in no item, or none of its values can be compared with a range's."""
    for condition in conditions(where):
        values = [item[condition.field] for item in items if condition.field in item]
        if not values:
            return True
        operand = condition.operand
        kinds = (str,) if isinstance(operand, str) else (int, float)
        simple = [one for v in values for one in (v if isinstance(v, list) else [v])]
        is_met = any(isinstance(v, kinds) and type(v) is not bool for v in simple)
        if condition.operator in RANGE_OPERATORS and not is_met:
            return True
    return False


# A column


@given(st.lists(MAYBE, max_size=20), st.data())
def test_bytes_and_removal_give_the_column_of_the_values(values, data):
    column = Column.of(values)
    blob = column.to_bytes()
    assert Column.from_bytes(blob).to_bytes() == blob
    slots = data.draw(st.sets(st.integers(0, len(values) - 1))) if values else set()
    left = [ABSENT if slot in slots else value for slot, value in enumerate(values)]
    assert column.without(sorted(slots)).to_bytes() == Column.of(left).to_bytes()
    assert column.holds(sorted(slots)) == any(values[slot] is not ABSENT for slot in slots)
    assert Column.of(left).is_empty == all(value is ABSENT for value in left)


def test_ranks_of_more_than_16_bits():
    values = [[16 * n + k for k in range(17)] for n in range(4096)]
    column = Column.from_bytes(Column.of(values).to_bytes())
    assert column.ranks.dtype == np.uint32
    (condition,) = conditions({"f": 65536})
    assert np.flatnonzero(column.matches(condition)).tolist() == [4095]
    (condition,) = conditions({"f": {"in": [160, 3]}})
    assert np.flatnonzero(column.matches(condition)).tolist() == [0, 9, 10]


@settings(max_examples=400)
@given(st.lists(MAYBE, max_size=6), st.data())
def test_hostile_bytes_raise_a_value_error_or_answer(values, data):
    blob = bytearray(Column.of(values).to_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 8))
    try:
        column = Column.from_bytes(bytes(blob[: len(blob) - cut]))
    except ValueError:
        return
    for where in ({"f": 1}, {"f": "a"}, {"f": {">": 0}}, {"f": {"!=": None}}):
        (condition,) = conditions(where)
        assert column.matches(condition).shape == (column.slots,)


# In a gallery


class Writes(RuleBasedStateMachine):
    """Two connections write in any order; the columns of both answer as the items do."""

    names = Bundle("names")

    @initialize(first=st.integers(0, 12))
    def create(self, first):
        self.path = self.folder / f"{next(self.numbers)}.bitgaze"
        self.galleries = [Gallery(self.path, bits=8), Gallery(self.path, bits=8)]
        self.items = {}
        self.open = []
        self.galleries[0].upsert(Item(str(n), CODE, {"a": n}) for n in range(first))
        self.items.update((str(n), {"a": n}) for n in range(first))

    @property
    def gallery(self):
        return self.open[-1][0] if self.open else self.galleries[next(self.numbers) % 2]

    @rule(
        key=st.integers(0, 15).map(str),
        metadata=st.dictionaries(st.sampled_from("abcdefgh"), VALUES, max_size=4),
    )
    def put(self, key, metadata):
        self.gallery.upsert([Item(key, CODE, metadata)])
        self.items[key] = metadata

    @rule(count=st.integers(5, 20), value=SCALARS)
    def put_many(self, count, value):
        new = {f"more {n}": {"a": value, "b": n} for n in range(count)}
        self.gallery.upsert(Item(key, CODE, metadata) for key, metadata in new.items())
        self.items |= new

    @rule(data=st.data())
    def remove(self, data):
        if self.items:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.items)), unique=True))
            self.gallery.remove(*chosen)
            for key in chosen:
                del self.items[key]

    @rule(data=st.data())
    def rename(self, data):
        if self.items:
            key = data.draw(st.sampled_from(sorted(self.items)))
            new = f"renamed {next(self.numbers)}"
            self.gallery.rename(key, new)
            self.items[new] = self.items.pop(key)

    @rule()
    def begin(self):
        if not self.open:
            gallery = self.gallery
            transaction = gallery.transaction()
            transaction.__enter__()
            self.open.append((gallery, transaction, dict(self.items)))

    @rule(is_kept=st.booleans())
    def end(self, is_kept):
        if self.open:
            _, transaction, before = self.open.pop()
            error = None if is_kept else RuntimeError()
            transaction.__exit__(error and RuntimeError, error, None)
            if not is_kept:
                self.items = before

    @invariant()
    def columns_answer_as_items(self):
        for gallery in [self.open[-1][0]] if self.open else self.galleries:
            for where in WHERES:
                try:
                    found = keys(gallery, where)
                except WhereError:
                    assert is_refused(self.items.values(), where), where
                else:
                    assert found == expected_keys(self.items, where), where
            assert set(gallery.fields()) == set().union(*self.items.values())

    def teardown(self):
        while getattr(self, "open", None):
            self.end(is_kept=True)
        for gallery in getattr(self, "galleries", ()):
            gallery.close()
        if hasattr(self, "path"):
            assert verify_gallery(self.path).problems == ()


@pytest.mark.parametrize("slots", [4, 4096])
def test_columns_answer_as_items_after_any_writes(tmp_path, monkeypatch, slots):
    """With chunks so small that they come and go, and with fields and changes beyond the limits."""
    if slots < 4096:
        monkeypatch.setattr(columns, "MAX_SLOTS", slots)
        monkeypatch.setattr(columns, "_MAX_FIELDS", 3)
    monkeypatch.setattr(columns, "_MAX_CHANGED", 3)
    monkeypatch.setattr(Writes, "folder", tmp_path, raising=False)
    monkeypatch.setattr(Writes, "numbers", iter(range(10**9)), raising=False)
    run_state_machine_as_test(
        Writes, settings=settings(max_examples=10, stateful_step_count=10, deadline=None)
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "g.bitgaze"
    with Gallery(path, bits=8) as gallery:
        gallery.upsert(Item(str(n), CODE, {"n": n, "secret": f"word {n}"}) for n in range(5000))
        gallery.add_code("new", CODE, {"n": -1})
    return path


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE field SET column = zeroblob(length(column)) WHERE id = 0",
        "UPDATE field SET column = substr(column, 1, 100)",
        "UPDATE field SET column = 'text'",
        "UPDATE field SET column = (SELECT column FROM field WHERE id = 1) WHERE id = 0",
        "DELETE FROM field WHERE id = 0",
        "DELETE FROM field",
        "UPDATE field SET id = id + 1000",
        "DELETE FROM field_chunk",
        "DELETE FROM field_chunk WHERE n = 0",
        "DELETE FROM field_chunk WHERE n = 1",
        "UPDATE field_chunk SET n = n + 7",
        "UPDATE field_chunk SET names = '{}'",
        "UPDATE field_chunk SET names = 3",
        "UPDATE field_chunk SET changed = x''",
        "UPDATE field_chunk SET changed = 'abc'",
        "UPDATE field_chunk SET built = built - 1",
        "UPDATE field_chunk SET is_complete = 2",
        "UPDATE field_chunk SET version = version + 1",
        "UPDATE field_chunk SET crc = 'x'",
    ],
)
def test_a_damaged_column_does_not_answer(path, damage):
    execute(path, damage)
    found = verify_gallery(path).problems
    assert found
    assert "columns of metadata" in found[0]
    with Gallery(path) as gallery, pytest.raises(GalleryCorrupt, match="columns of metadata"):
        keys(gallery, {"n": 3, "secret": {"!=": "x"}, "@key": {">": ""}})


@pytest.mark.parametrize(
    "values",
    [
        {"names": "[]"},
        {"names": '{"n": 1}'},
        {"names": '{"n": [64, 0]}'},
        {"names": '{"n": [-1, 0]}'},
        {"names": '{"n": [0, 1], "m": [0, 1]}'},
        {"names": '{"n": [0, "x"]}'},
        {"names": "[" * 10_000},
        {"built": 4097},
        {"built": -1},
        {"changed": b"\xff\xff"},
        {"changed": b"\0"},
    ],
)
def test_rows_with_a_valid_checksum_and_wrong_values_are_damaged(path, values):
    row = {"version": 1, "built": 4096, "names": "{}", "is_complete": 1, "changed": b""} | values
    text = "\0".join(str(value) for value in [0, *list(row.values())[:4]])
    crc = zlib.crc32(text.encode() + b"\0" + row["changed"])
    with Gallery(path) as gallery, gallery._store.writing():
        gallery._store._db.execute(
            "UPDATE field_chunk SET version = ?, built = ?, names = ?, is_complete = ?,"
            " changed = ?, crc = ? WHERE n = 0",
            (*row.values(), crc),
        )
    with Gallery(path) as gallery, pytest.raises(GalleryCorrupt, match="columns of metadata"):
        keys(gallery, {"n": 3})
    assert not verify_gallery(path).is_sound


def test_verify_finds_a_column_that_is_not_of_its_items(path):
    with Gallery(path) as gallery, gallery._store.writing():
        db = gallery._store._db
        version, built, names, is_complete, changed, old_crc = db.execute(
            "SELECT version, built, names, is_complete, changed, crc FROM field_chunk WHERE n = 0"
        ).fetchone()
        blob = Column.of(range(1, 4097)).to_bytes()
        known = json.loads(names)
        known["n"][1] = zlib.crc32(blob)
        names = json.dumps(known)
        text = f"0\0{version}\0{built}\0{names}\0{is_complete}\0"
        crc = zlib.crc32(text.encode() + changed)
        db.execute("UPDATE field SET column = ? WHERE id = ?", (blob, known["n"][0]))
        db.execute("UPDATE field_chunk SET names = ?, crc = ? WHERE n = 0", (names, crc))
        kept = gallery._store._columns
        kept.sum = (kept.sum + crc - old_crc) % 2**32
    assert "columns of metadata of items 0 to 4095" in verify_gallery(path).problems[0]


def test_what_is_removed_is_gone_from_the_columns(path):
    def words():
        with Gallery(path) as gallery:
            rows = gallery._store._db.execute("SELECT column FROM field").fetchall()
        return b"\n".join(blob for (blob,) in rows)

    assert b"word 17" in words()
    with Gallery(path) as gallery:
        gallery.remove("17")
        gallery.set_metadata("1234", {"n": 1234})
        gallery.set_metadata("4999", {})
    left = words()
    for gone in (b"word 17word", b"word 1234", b"word 4999"):
        assert gone not in left
    assert b"word 1235" in left
    with Gallery(path) as gallery:
        assert keys(gallery, {"secret": {"in": ["word 17", "word 1234", "word 18"]}}) == {"18"}


def test_many_fields_and_large_values_are_read_from_the_items(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=8) as gallery:
        rows = [{f"id {n}": n, "common": n % 3, "x" * 300: n} for n in range(600)]
        gallery.upsert(Item(str(n), CODE, row) for n, row in enumerate(rows))
        gallery.add_code("large", CODE, {"text": "y" * 5_000_000, "common": 1})
        gallery.upsert(Item(f"late {n}", CODE, {"common": 9}) for n in range(600))
        assert len(gallery.fields()) == 603
        kept = gallery._store._db.execute("SELECT count(*) FROM field").fetchone()[0]
        assert 1 <= kept <= 64
    with Gallery(gallery.path) as gallery:
        assert keys(gallery, {"id 599": 599}) == keys(gallery, {"x" * 300: 599}) == {"599"}
        assert len(keys(gallery, {"common": 1})) == 201
        assert keys(gallery, {"text": {"like": "y%"}}) == {"large"}
    assert verify_gallery(gallery.path).is_sound


def test_keys_are_found_by_patterns_and_ranges_after_any_change(path):
    """Also in chunks that hold no column of keys, as one whose keys are too large."""
    for statement in ("", "UPDATE field_chunk SET names = '{}', is_complete = 0"):
        if statement:
            execute(path, statement)
            with Gallery(path) as gallery, gallery._store.writing():
                db = gallery._store._db
                rows = db.execute(f"SELECT n, {columns._ROW} FROM field_chunk").fetchall()
                crcs = [(columns._crc(n, *row[:-1]), n) for n, *row in rows]
                db.executemany("UPDATE field_chunk SET crc = ? WHERE n = ?", crcs)
                gallery._store._columns.sum = sum(crc for crc, _ in crcs) & 0xFFFFFFFF
        with Gallery(path) as gallery:
            gallery.rename("17", "a")
            assert keys(gallery, {"@key": {"like": "_"}}) == {*"0123456789a"}
            gallery.remove("3")
            gallery.rename("a", "17")
            assert keys(gallery, {"@key": {">": "9998", "<=": "new"}}) == {"new"}
            assert keys(gallery, {"@key": {"like": "_"}}) == {*"012456789"}
            assert keys(gallery, {"@key": {"like": "499_"}, "n": {">": 4997}}) == {"4998", "4999"}
            with gallery.transaction():
                gallery.add_code("3", CODE, {"@key": "x"})
                assert len(keys(gallery, {"@key": {"like": "_"}})) == 10
            assert keys(gallery, {"@key": {"like": "x"}}) == set()
            assert "@key" not in gallery.fields()
        assert not statement or keys_of(path) == [None, None]


def keys_of(path):
    """For each chunk, the number of its column of keys."""
    with Gallery(path) as gallery:
        rows = gallery._store._db.execute("SELECT names FROM field_chunk ORDER BY n").fetchall()
    return [json.loads(names).get("@key") for (names,) in rows]


def test_an_other_process_drops_only_what_it_changed(path, monkeypatch):
    read, read_column = [], columns._read_column

    def noted(db, path, n, *arguments):
        read.append(n)
        return read_column(db, path, n, *arguments)

    monkeypatch.setattr(columns, "_read_column", noted)
    with Gallery(path) as reader, Gallery(path) as writer:
        assert keys(reader, {"n": 4500}) == {"4500"}
        assert read == [0, 1]
        writer.set_metadata("4500", {"n": 3})
        read.clear()
        assert keys(reader, {"n": 3}) == {"3", "4500"}
        assert read == [1]


def test_older_columns_with_their_row_are_noticed(path, tmp_path):
    """As pages of an older state are: each row and column has a valid checksum."""
    older = tmp_path / "older.bitgaze"
    with Gallery(path) as gallery:
        gallery.backup(older)
        gallery.set_metadata("3", {"n": -77})
        assert keys(gallery, {"n": -77}) == {"3"}
    tables = ("field", "field_chunk")
    copies = [f"INSERT INTO {table} SELECT * FROM older.{table}" for table in tables]
    execute(path, f"ATTACH '{older}' AS older", *(f"DELETE FROM {t}" for t in tables), *copies)
    with Gallery(path) as gallery, pytest.raises(GalleryCorrupt, match="of another state of"):
        keys(gallery, {"n": -77})
    assert "columns of metadata are damaged, or of another" in verify_gallery(path).problems[0]
