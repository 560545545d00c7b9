"""What `make demo` runs."""

import subprocess
import sys

from conftest import ROOT


def test_folders_of_the_same_name_have_separate_galleries(tmp_path, make_image):
    for parent, seed in (("a", 1), ("b", 2)):
        make_image(f"{parent}/photos/{parent}.png", seed)
        command = [sys.executable, ROOT / "examples" / "demo.py", f"{parent}/photos"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("b/photos/b.png")
    assert "a/photos/a.png" not in done.stdout
    assert len(list((tmp_path / "demo").glob("photos-*.bitgaze"))) == 2
    assert len(list((tmp_path / "demo").glob("photos-*.html"))) == 2
