import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import general_table
import near_duplicates
from attention_hashing.experiments import results
from attention_hashing.general import model as general


@pytest.fixture
def document(tmp_path, monkeypatch):
    path = tmp_path / "results.md"
    monkeypatch.setattr(results.write_section, "__defaults__", (path, ""))
    return path


def test_a_section_is_replaced_and_others_are_left_alone(document, capsys):
    results.write_section("a.py", "First", "Text.", ["x", "y"], [["1", "2"]])
    results.write_section("b.py", "Second", "Text.", ["x"], [["3"]])
    results.write_section("a.py", "First", "Text, again.", ["x", "y"], [["4", r"\5"]])
    text = document.read_text()
    assert text.startswith(
        "# Results\n\n<!-- export/a.py -->\n## First\n\nText, again.\n\n| x | y |"
    )
    assert "| 4 | \\5 |" in text
    assert "| 1 | 2 |" not in text
    assert text.index("## First") < text.index("## Second")
    assert text.count("<!-- end -->") == 2
    assert "| 3 |" in capsys.readouterr().out


def test_a_document_is_replaced_as_a_whole(document, monkeypatch):
    results.write_section("a.py", "First", "Text.", ["x"], [["1"]])
    before = document.read_text()
    write_text = Path.write_text

    def killed(path, text, **how):
        write_text(path, text[:9], **how)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        results.write_section("a.py", "First", "Text.", ["x"], [["2"]])
    assert document.read_text() == before


def test_near_duplicates(document, tmp_path, examples, monkeypatch, capsys):
    photos, others = tmp_path / "photos", tmp_path / "others"
    images = sorted(p for p in examples.rglob("*.jpg"))[::25]
    for folder, chosen in ((photos, images[:4]), (others, images[4:])):
        folder.mkdir()
        for path in chosen:
            shutil.copy(path, folder)
    monkeypatch.setattr("sys.argv", ["near_duplicates.py", str(photos), str(others)])
    assert near_duplicates.main() == 0
    text = document.read_text()
    assert "48 altered versions of 4 photographs" in text
    assert f"among these and {len(images) - 4} other images" in text
    assert "| alteration | bitgaze | by meaning alone | LSH, 128 | pHash, 64 |" in text
    for name in ("resized", "blurred", "all ten"):
        assert f"| {name} | 1.000 |" in text
    assert "| collage |" in text
    monkeypatch.setattr(
        "sys.argv", [*sys.argv, "--alone", "--looks", "1", "--keep", str(tmp_path / "kept")]
    )
    assert near_duplicates.main() == 0
    assert "| alteration | bitgaze | by meaning alone |\n" in document.read_text()
    assert (tmp_path / "kept" / "looks-1.bitgaze").exists()
    (others / "none").mkdir()
    monkeypatch.setattr("sys.argv", ["near_duplicates.py", str(photos), str(others / "none")])
    assert near_duplicates.main() == 2
    assert "none: contains no images" in capsys.readouterr().err


def test_a_tie_with_another_image_is_a_miss():
    database = np.array([[0], [255], [15]], np.uint8)
    versions = np.array([[0], [15], [240], [127]], np.uint8)  # two of the first, two of the second
    # Distance 0 to its own; 0 to another; 4 to both (a tie); 1 to its own.
    assert near_duplicates._recall(database, versions, 2).tolist() == [0.5, 0.5]


def test_the_general_table(document, examples, monkeypatch, capsys):
    for name in ("_DISTORTED", "_OUT_OF_FOCUS", "_CUT_OUT"):
        monkeypatch.setattr(general, name, 0)
    monkeypatch.setattr("attention_hashing.general.unsupervised._STEPS", 5)
    monkeypatch.setattr(general_table, "_MAX_IMAGES", 60)
    monkeypatch.setattr("sys.argv", ["general_table.py", str(examples), str(examples)])
    assert general_table.main() == 0
    rows = [line for line in document.read_text().splitlines() if "/pictures |" in line]
    assert [row.split(" | ")[1] for row in rows] == ["both", "whole image", "attended part"]
    figures = np.array([[float(cell) for cell in row.strip(" |").split(" | ")[2:]] for row in rows])
    assert ((figures > 0) & (figures < 1.5)).all()
    monkeypatch.setattr("sys.argv", ["general_table.py", str(examples), "/nowhere"])
    assert general_table.main() == 2
    assert "/nowhere: not a folder" in capsys.readouterr().err
