"""What `make demo` runs."""

import subprocess
import sys

from conftest import ROOT


def test_folders_of_the_same_name_have_separate_galleries(tmp_path, make_image):
    for parent, seed in (("a", 1), ("b", 2)):
        make_image(f"{parent}/photos/{parent} 1.png", seed)
        make_image(f"{parent}/photos/{parent} 2.png", seed + 2)
        command = [sys.executable, ROOT / "examples" / "demo.py", f"{parent}/photos"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    query, *hits = done.stdout.splitlines()[-2:]
    assert "b/photos/b 1.png" in query  # which is not a hit
    assert [hit.endswith("b/photos/b 2.png") for hit in hits] == [True]
    assert "a/photos" not in done.stdout
    assert len(list((tmp_path / "demo").glob("photos-*.bitgaze"))) == 2
    assert len(list((tmp_path / "demo").glob("photos-*.html"))) == 2
