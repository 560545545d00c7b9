"""What a gallery remembers of its last sync, and `bitgaze index` without folders."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from bitgaze import Encoder, FingerprintMismatch, Gallery, GalleryCorrupt, repair
from bitgaze.cli.main import main
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.gallery.remembered import Sources
from conftest import smooth_image
from galleries import execute


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.png", "a/raw/2.png", "b/3.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(int(path.stem)).save(path)
    return tmp_path / "photos"


def test_a_sync_is_remembered(tmp_path, photos):
    with Gallery("g.bitgaze") as gallery:
        assert gallery.sources is None
        gallery.sync(photos, dry_run=True)
        assert gallery.sources is None
        before = time.time()
        gallery.sync("photos/a", photos / "b", include=iter(["*.png"]), exclude=["raw"])
        sources = gallery.sources
        assert before <= sources.synced_at <= time.time()
        folders = (str(photos / "a"), str(photos / "b"))
        assert sources == Sources(folders, ("*.png",), ("raw",), False, sources.synced_at)
        gallery.sync(photos, all_folders=True)
    with Gallery("g.bitgaze") as gallery:
        assert gallery.sources.folders == (str(photos),)
        assert gallery.sources.all_folders
        assert gallery.sources.exclude == ()


def test_folders_that_are_not_text_are_remembered(tmp_path):
    folder = os.fsencode(tmp_path) + b"/\xff"
    os.mkdir(folder)  # noqa: PTH102 (bytes)
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        gallery.sync(os.fsdecode(folder))
    with Gallery(tmp_path / "g.bitgaze") as gallery:
        assert [os.fsencode(name) for name in gallery.sources.folders] == [folder]


def test_index_without_folders_repeats_the_last(photos, capsys):
    assert main(["index"]) == 2
    assert "no such gallery; create it with `bitgaze index FOLDER" in capsys.readouterr().err
    Gallery("gallery.bitgaze").close()
    assert main(["index"]) == 2
    assert "remembers no folders; name those to index: `bitgaze index FOLDER -g" in (
        capsys.readouterr().err
    )
    assert main(["index", "photos/a", "photos/b", "--exclude", "raw"]) == 0
    smooth_image(7).save(photos / "a/7.png")
    smooth_image(8).save(photos / "a/raw/8.png")
    capsys.readouterr()
    assert main(["index"]) == 0
    assert "1 added, 0 updated, 0 moved, 0 removed, 2 unchanged" in capsys.readouterr().out
    assert main(["info"]) == 0
    shown = capsys.readouterr().out
    assert f"folder       {photos}/a\nfolder       {photos}/b\nexclude      raw\n" in shown
    assert f"last index   {time.strftime('%Y-')}" in shown
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"]["exclude"] == ["raw"]
    assert main(["index", "--exclude", "7*"]) == 0  # other patterns for the same folders
    assert "2 added" in capsys.readouterr().out
    assert main(["index", "--include", "*.png"]) == 0
    with Gallery("gallery.bitgaze") as gallery:
        assert (gallery.sources.include, gallery.sources.exclude) == (("*.png",), ("7*",))
    assert main(["index", "--exclude", "raw"]) == 0
    with Gallery("gallery.bitgaze") as gallery:
        assert (gallery.sources.include, gallery.sources.exclude) == (("*.png",), ("raw",))
    assert main(["forget", "photos/a"]) == 0
    capsys.readouterr()
    assert main(["index"]) == 0
    with Gallery("gallery.bitgaze") as gallery:
        assert gallery.sources.folders == (str(photos / "b"),)
        assert list(gallery) == [str(photos / "b/3.png")]
        gallery.forget(photos / "b")
        assert gallery.sources.folders == ()
    assert main(["index"]) == 2


def test_damaged_sources_raise_a_typed_error(photos):
    with Gallery("g.bitgaze") as gallery:
        gallery.sync(photos)
    execute("g.bitgaze", "UPDATE info SET value = '{}' WHERE name = 'sources'")
    with pytest.raises(GalleryCorrupt, match="checksum does not match the entries"):
        Gallery("g.bitgaze")


def test_repair_keeps_what_is_remembered(photos, tmp_path):
    with Gallery("g.bitgaze") as gallery:
        gallery.sync(photos, exclude=["raw"])
        sources = gallery.sources
    repair("g.bitgaze", "new.bitgaze")
    with Gallery("new.bitgaze") as gallery:
        assert gallery.sources == sources


def test_the_model_is_found_again(photos, tmp_path, capsys):
    """Beside the gallery first, then where it was; only if it is the same model."""
    store = tmp_path / "models"
    store.mkdir()
    model = store / "mine.onnx"
    content = bytearray(DEFAULT_MODEL.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight
    model.write_bytes(content)
    fingerprint = Encoder(model).fingerprint
    assert main(["index", "photos", "-m", "models/mine.onnx"]) == 0
    smooth_image(9).save(photos / "9.png")
    capsys.readouterr()
    assert main(["index"]) == 0
    assert "1 added" in capsys.readouterr().out
    assert main(["search", str(photos / "9.png"), "-k", "1"]) == 0
    assert capsys.readouterr().out.split()[0] == "0.0"
    assert main(["info"]) == 0
    assert f"model_file   {model}\n" in capsys.readouterr().out
    beside = Path(shutil.move(model, tmp_path))
    with Gallery("gallery.bitgaze") as gallery:
        assert gallery.encoder.model.path == beside
        assert gallery.encoder.fingerprint == fingerprint
    shutil.copy(DEFAULT_MODEL, beside)  # another model of that name
    for command in (["search", "photos/9.png"], ["search", "photos/9.png", "--provider", "cpu"]):
        assert main(command) == 2
        assert "-m FILE" in capsys.readouterr().err
    with (
        Gallery("gallery.bitgaze") as gallery,
        pytest.raises(
            FingerprintMismatch,
            match=r"neither in .*mine\.onnx nor beside .* -m FILE .*Encoder\(FILE",
        ),
    ):
        gallery.encode([smooth_image(1)])
