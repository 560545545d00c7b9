"""The scripts behind docs/results.md, as far as a test can run them."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

from bitgaze import Gallery

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("export/*.py")])


def test_the_scripts_import_what_exists():
    """In one process, since most load torch."""
    program = (
        "import runpy, sys\n"
        "for script in sys.argv[1:]:\n"
        "    sys.path.insert(0, script.rpartition('/')[0])\n"
        "    runpy.run_path(script, run_name='imported')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, SCRIPTS)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_each_condition_is_met_by_as_many_items_as_expected(tmp_path):
    spec = importlib.util.spec_from_file_location("filters", ROOT / "benchmarks" / "filters.py")
    filters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filters)
    count = 2_000
    filters.fill(tmp_path / "g.bitgaze", count)
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        for where, expected in filters.wheres(count):
            hits = gallery.search_code(np.zeros(16, np.uint8), k=count, where=where)
            assert len(hits) == expected, where
