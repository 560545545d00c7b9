"""Galleries to and from the formats of other engines: what survives, and what the engines find."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from engines import FINDERS, check_found, open_sqlite

from bitgaze import Gallery, Item, verify_gallery
from bitgaze.cli.main import main
from bitgaze.errors import BitgazeError, FingerprintMismatch, GalleryError, InterchangeError
from bitgaze.interchange import ENGINES, export_gallery, galleries, import_gallery, sidecar
from bitgaze.interchange.description import Description, description_from
from interchange import BITS, COUNT, content, made_description, made_items, write_full

# Module that an engine needs first, to its extra.
MODULES = {
    "apsw": "sqlite-vec",
    "faiss": "faiss",
    "lancedb": "lance",
    "pyarrow": "parquet",
    "sqlite_vec": "sqlite-vec",
    "usearch": "usearch",
}
for module in MODULES:
    pytest.importorskip(module)
K = 8


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A gallery whose items have all that an item can have; adapted."""
    path = tmp_path_factory.mktemp("full") / "full.bitgaze"
    write_full(path)
    return path


@pytest.fixture(scope="module", params=sorted(ENGINES))
def exported(request, full, tmp_path_factory):
    """(engine, what its export is), of the gallery `full`."""
    out = tmp_path_factory.mktemp("out") / request.param
    assert export_gallery(full, request.param, out).items == COUNT
    return request.param, out


@pytest.fixture
def first_bit(tmp_path):
    """A gallery of one code, of which only the first bit is set."""
    path = tmp_path / "bit.bitgaze"
    with Gallery(path, bits=BITS) as gallery:
        code = np.zeros(BITS // 8, np.uint8)
        code[0] = 0x80
        gallery.add_code("first", code)
    return path


def test_a_gallery_is_written_as_it_was_described(full):
    text, found = content(full)
    assert text == made_description().to_text()
    for item, values in zip(made_items(), found, strict=True):
        key, code, metadata, _, looks, boxes, _, properties, classes = values
        assert (key, metadata, properties, classes) == (
            *(item.key, item.metadata),
            *(item.properties, item.classes),
        )
        assert (code, looks) == (item.code.tolist(), item.looks.tolist())
        assert np.allclose(np.ravel(boxes), item.boxes.reshape(-1), atol=1e-6)


def test_a_round_trip_keeps_all(exported, full, tmp_path):
    engine, out = exported
    back = tmp_path / "back.bitgaze"
    seen = []
    found = import_gallery(out, engine, back, on_progress=lambda *counts: seen.append(counts))
    assert (found.items, found.notes, seen) == (COUNT, (), [(COUNT, COUNT)])
    assert content(back) == content(full)
    assert verify_gallery(back).is_sound


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_an_empty_gallery_survives(engine, tmp_path):
    with Gallery(tmp_path / "none.bitgaze", bits=8):
        pass
    export_gallery(tmp_path / "none.bitgaze", engine, tmp_path / "out")
    assert import_gallery(tmp_path / "out", engine, tmp_path / "back.bitgaze").items == 0
    assert content(tmp_path / "back.bitgaze") == content(tmp_path / "none.bitgaze")


def test_batches_are_joined_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("bitgaze.interchange.content._BATCH_ITEMS", 7)
    write_full(tmp_path / "full.bitgaze")
    for engine in ENGINES:
        back = tmp_path / f"{engine}.bitgaze"
        export_gallery(tmp_path / "full.bitgaze", engine, tmp_path / engine)
        import_gallery(tmp_path / engine, engine, back)
        assert content(back) == content(tmp_path / "full.bitgaze")


# What engines find ---------------------------------------------------------------------------


def queries():
    """Codes of the gallery, and others."""
    random = np.random.default_rng(9)
    others = random.integers(0, 256, (4, BITS // 8), dtype=np.uint8)
    return np.concatenate([np.stack([item.code for item in made_items(4)]), others])


@pytest.mark.parametrize("exported", sorted(FINDERS), indirect=True)
def test_an_engine_finds_what_we_find(exported):
    engine, out = exported
    stored = np.stack([item.code for item in made_items()])
    check_found(FINDERS[engine](out, queries(), K), stored, queries(), K)


def raw_faiss(out):
    import faiss

    return faiss.read_index_binary(str(out / "index.faiss")).reconstruct(0).tobytes()


def raw_usearch(out):
    from usearch.index import Index

    return Index.restore(str(out / "index.usearch")).get(0).tobytes()


def raw_lance(out):
    import lancedb

    return bytes(lancedb.connect(out).open_table("items").to_arrow()["code"][0].as_py())


def raw_sqlite_vec(out):
    db = open_sqlite(out)
    found = db.execute("SELECT code FROM code").get
    db.close()
    return found


def raw_parquet(out):
    import pyarrow.parquet

    return pyarrow.parquet.read_table(out)["code"][0].as_py()


def raw_milvus(out):
    import pyarrow.parquet

    return bytes(pyarrow.parquet.read_table(out / "items.parquet")["code"][0].as_py())


def raw_pgvector(out):
    digits = (out / "items.copy").read_text().split("\t")[2]
    assert digits == "1" + "0" * (BITS - 1)  # PostgreSQL writes the first bit first
    return int(digits, 2).to_bytes(BITS // 8, "big")


RAW = {
    "faiss": raw_faiss,
    "lance": raw_lance,
    "milvus": raw_milvus,
    "parquet": raw_parquet,
    "pgvector": raw_pgvector,
    "sqlite-vec": raw_sqlite_vec,
    "usearch": raw_usearch,
}


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_the_first_bit_is_the_most_significant_of_byte_0(engine, first_bit, tmp_path):
    export_gallery(first_bit, engine, tmp_path / "out")
    assert RAW[engine](tmp_path / "out") == bytes([0x80, 0, 0, 0, 0, 0, 0, 0])


# Codes that bitgaze did not write ------------------------------------------------------------


@pytest.mark.parametrize("engine", ["faiss", "parquet", "usearch"])
def test_own_codes_are_read(engine, tmp_path):
    codes = queries()
    path = tmp_path / "own"
    if engine == "faiss":
        import faiss

        index = faiss.IndexBinaryFlat(BITS)
        index.add(codes)
        faiss.write_index_binary(index, str(path))
    elif engine == "usearch":
        from usearch.index import Index, MetricKind, ScalarKind

        index = Index(ndim=BITS, metric=MetricKind.Hamming, dtype=ScalarKind.B1)
        index.add(np.arange(len(codes), dtype=np.uint64), codes)
        index.save(str(path))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [
            pa.array([str(n) for n in range(len(codes))]),
            pa.array([code.tobytes() for code in codes], pa.binary(BITS // 8)),
        ]
        pq.write_table(pa.table([*columns, columns[0]], names=["key", "code", "label"]), path)
    found = import_gallery(path, engine, tmp_path / "own.bitgaze")
    assert "your own codes" in found.notes[0]
    assert found.notes[1:] == (("not read: column label",) if engine == "parquet" else ())
    with Gallery(tmp_path / "own.bitgaze") as gallery:
        assert gallery.fingerprint is None
        assert [gallery.get(str(n)).code.tolist() for n in range(len(codes))] == codes.tolist()
        assert gallery.search_code(codes[5], k=1)[0].key == "5"


def test_a_folder_of_parquet_files_is_one_gallery(full, tmp_path):
    from bitgaze.interchange import parquet

    shards = tmp_path / "shards"
    shards.mkdir()
    items = made_items()
    for n in range(3):
        part = items[20 * n : 20 * n + 20]
        parquet.write(shards / f"{n}.parquet", made_description(), [part[:9], part[9:]])
    import_gallery(shards, "parquet", tmp_path / "back.bitgaze")
    assert content(tmp_path / "back.bitgaze") == content(full)

    parquet.write(shards / "3.parquet", Description(BITS, "e" * 64, "other", 2, 256), [])
    with pytest.raises(
        FingerprintMismatch, match=r"3\.parquet: its codes are described differently"
    ):
        import_gallery(shards, "parquet", tmp_path / "no.bitgaze")


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_missing_package_names_its_extra(module, full, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, f"{module}.index", None)
    extra = MODULES[module]
    with pytest.raises(InterchangeError, match=rf"pip install 'bitgaze\[{extra}\]'"):
        export_gallery(full, extra, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_nothing(exported, full):
    engine, out = exported
    with pytest.raises((GalleryError, InterchangeError), match="already exists"):
        export_gallery(full, engine, out)


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_what_is_something_else_is_refused(engine, full, tmp_path):
    missing = tmp_path / "missing"
    with pytest.raises(InterchangeError, match="no such"):
        import_gallery(missing, engine, tmp_path / "g.bitgaze")
    folder = tmp_path / "folder"
    folder.mkdir()
    for wrong in (full, folder):
        with pytest.raises(InterchangeError, match=str(wrong)):
            import_gallery(wrong, engine, tmp_path / "g.bitgaze")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_export_leaves_nothing(tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=BITS) as gallery:
        gallery.upsert(
            [Item("a\0b", np.zeros(BITS // 8, np.uint8), {"long": "x" * 70_000})],
        )
    with pytest.raises(InterchangeError, match=r"'a\\x00b' holds a NUL character"):
        export_gallery(tmp_path / "g.bitgaze", "pgvector", tmp_path / "out")
    with pytest.raises(InterchangeError, match="metadata of .* has 70,.* Milvus takes at most"):
        export_gallery(tmp_path / "g.bitgaze", "milvus", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["g.bitgaze"]


def test_an_index_of_another_export_is_noticed(first_bit, full, tmp_path):
    export_gallery(full, "faiss", tmp_path / "one")
    export_gallery(first_bit, "faiss", tmp_path / "other")
    (tmp_path / "other" / sidecar.NAME).replace(tmp_path / "one" / sidecar.NAME)
    with pytest.raises(InterchangeError, match="1 items of 64 bits, but .* holds 60 codes"):
        import_gallery(tmp_path / "one", "faiss", tmp_path / "g.bitgaze")

    import faiss

    index = faiss.IndexBinaryFlat(BITS)
    index.add(np.stack([item.code for item in made_items()])[::-1].copy())
    export_gallery(full, "faiss", tmp_path / "two")
    faiss.write_index_binary(index, str(tmp_path / "two" / "index.faiss"))
    with pytest.raises(InterchangeError, match="is not number 0 of the index beside it"):
        import_gallery(tmp_path / "two", "faiss", tmp_path / "g.bitgaze")
    assert not (tmp_path / "g.bitgaze").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.drop_columns(["classes"]), "has no column classes, expected it of bi"),
        (lambda table: table.drop_columns(["code"]), "has no column code"),
        (lambda table: table.set_column(0, "key", table["size"]), "key is a column of int64, expe"),
        (
            lambda table: table.select(["key"]).replace_schema_metadata(),
            "code is missing, expected",
        ),
        (
            lambda table: (
                table.select(["key", "metadata"])
                .rename_columns(["key", "code"])
                .replace_schema_metadata()
            ),
            "code is string, expected fixed_size_binary of 1 to 128 bytes",
        ),
    ],
)
def test_other_columns_are_refused(change, problem, full, tmp_path):
    import pyarrow.parquet as pq

    export_gallery(full, "parquet", tmp_path / "out")
    pq.write_table(change(pq.read_table(tmp_path / "out")), tmp_path / "changed")
    with pytest.raises(InterchangeError, match=problem):
        import_gallery(tmp_path / "changed", "parquet", tmp_path / "g.bitgaze")


def test_two_items_of_one_key_are_refused(tmp_path):
    items = made_items(3)
    for batches in ([[*items, items[1]]], [items, items[1:2]]):
        with pytest.raises(InterchangeError, match="two items with the key 'bild 1 "):
            galleries.write_gallery(
                tmp_path / "g.bitgaze", made_description(), batches, tmp_path / "in"
            )
    assert list(tmp_path.iterdir()) == []


def test_an_item_that_does_not_fit_is_refused(tmp_path):
    def written(items, **changes):
        description = replace(made_description(), **changes)
        galleries.write_gallery(tmp_path / "g.bitgaze", description, [items], tmp_path / "in")

    item = made_items(3)[2]
    with pytest.raises(InterchangeError, match="in: .* has a structural code, but the description"):
        written([item], structure=0)
    with pytest.raises(InterchangeError, match="in: .* has 2 looks, but .* has places for 1"):
        written([item], looks=1)
    with pytest.raises(InterchangeError, match=r"in: code of .* has 2 bytes in shape \(2,\)"):
        written([replace(item, code=np.zeros(2, np.uint8))])
    with pytest.raises(GalleryError, match=r"g\.bitgaze: an item's file belongs to another item"):
        written([item, replace(item, key="other")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"pgvector"}))
def test_a_key_can_hold_any_character(engine, tmp_path):
    with Gallery(tmp_path / "g.bitgaze", bits=BITS) as gallery:
        gallery.add_code("a\0b\u2028\U0001f600", np.ones(BITS // 8, np.uint8), {"a": "\ud800\0"})
    export_gallery(tmp_path / "g.bitgaze", engine, tmp_path / "out")
    import_gallery(tmp_path / "out", engine, tmp_path / "back.bitgaze")
    assert content(tmp_path / "back.bitgaze") == content(tmp_path / "g.bitgaze")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"bits": 12},
        {"bits": 128},
        {"looks": True},
        {"structure": 4},
        {"model": 1},
        {"adaptation": "AAAA"},
        {"distinct": [["00", "11"]]},
        {"sources": {"folders": [1], "include": [], "exclude": []}},
    ],
)
def test_a_wrong_description_is_refused(change):
    text = made_description().to_text()
    assert description_from(text, "x").to_text() == text
    values = json.loads(text)
    with pytest.raises(InterchangeError, match="^x: .*checksum|^x: is of format 2"):
        description_from(json.dumps(values | change), "x")
    del values["crc"]
    assert description_from(json.dumps(values), "x").to_text() == text
    with pytest.raises(InterchangeError, match="^x: "):
        description_from(json.dumps(values | change), "x")


@pytest.mark.parametrize(
    "change",
    [
        lambda rest: "[]",
        lambda rest: "[" * 100_000,
        lambda rest: json.dumps(rest | {"boxes": "[" * 100_000}),
        lambda rest: json.dumps(rest | {"boxes": "{}"}),
    ],
)
def test_json_that_others_wrote_is_checked(change, first_bit, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    export_gallery(first_bit, "milvus", tmp_path / "out")
    path = tmp_path / "out" / "items.parquet"
    table = pq.read_table(path)
    rest = pa.array([change(json.loads(table["rest"][0].as_py()))])
    pq.write_table(table.set_column(table.column_names.index("rest"), "rest", rest), path)
    with pytest.raises(InterchangeError, match="out: "):
        import_gallery(tmp_path / "out", "milvus", tmp_path / "back.bitgaze")


def test_damage_is_an_error_of_ours_or_changes_nothing(full, tmp_path):
    """Parquet has checksums of pages and of the description; what has none may stay unnoticed."""
    export_gallery(full, "parquet", tmp_path / "out")
    whole, random = (tmp_path / "out").read_bytes(), np.random.default_rng(0)
    outcomes = set()
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << int(random.integers(8))
        (tmp_path / "out").write_bytes(damaged)
        try:
            import_gallery(tmp_path / "out", "parquet", tmp_path / "back.bitgaze")
        except BitgazeError as error:
            outcomes.add(type(error))
        else:
            outcomes.add(content(tmp_path / "back.bitgaze") == content(full))
            (tmp_path / "back.bitgaze").unlink()
    assert outcomes == {InterchangeError, True}


def test_an_engine_that_is_not_known(tmp_path):
    with pytest.raises(ValueError, match="engine is 'zip', expected one of faiss, "):
        export_gallery(tmp_path, "zip", tmp_path)


# The commands --------------------------------------------------------------------------------


def test_the_commands_say_what_is_not_searched_or_kept(full, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", "milvus", "out", "-g", str(full)]) == 0
    looks = sum(len(item.looks) for item in made_items())
    assert capsys.readouterr().out.splitlines() == [
        "out: 60 images",
        f"milvus searches codes of whole images; those of {looks} looks are kept beside them, for "
        "an import",
        "written to Milvus' documented format; no Milvus has read it",
    ]
    assert main(["import", "--from", "milvus", "out", "-g", "back.bitgaze", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "written": "back.bitgaze",
        "items": 60,
        "notes": [],
    }
    assert main(["import", "--from", "milvus", "out", "-g", "back.bitgaze"]) == 2
    assert "already exists" in capsys.readouterr().err


def test_thumbnails_are_said_not_to_be_kept(full, tmp_path):
    from bitgaze.gallery.store import Store

    store = Store(full, None, 5.0)
    with store.writing():
        store.set_thumbnail(3, b"image")
    store.close()
    assert export_gallery(full, "parquet", tmp_path / "out").notes == ("not kept: 1 thumbnails",)
