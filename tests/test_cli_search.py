"""`bitgaze search` with several images and lists; `watch`, completion, and no command."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from bitgaze import Gallery
from bitgaze.cli.main import main
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.gallery.hits import UNRELATED
from conftest import smooth_image


@pytest.fixture
def photos(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITGAZE_GALLERY", raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        smooth_image(seed, (90, 60)).save(folder / f"p {seed}.png")
    assert main(["index", "photos"]) == 0
    capsys.readouterr()
    return folder


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))


def test_several_images_have_a_heading_each(photos, capsys):
    assert main(["search", "photos/p 0.png", "photos/p 1.png", "-k", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "photos/p 0.png:"
    assert lines[1].endswith(str(photos / "p 0.png"))
    assert lines[2:4] == ["", "photos/p 1.png:"]
    assert lines[4].endswith(str(photos / "p 1.png"))
    assert len(lines) == 5


def test_an_image_that_cannot_be_read_does_not_stop_the_others(photos, capsys):
    assert main(["search", "photos/p 0.png", "none.png", "photos/p 1.png", "--json"]) == 1
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert [found["query"] for found in document["searches"]] == [
        "photos/p 0.png",
        "photos/p 1.png",
    ]
    assert err == "bitgaze: none.png: No such file or directory\n"
    assert main(["search", "none.png"]) == 2


@pytest.mark.parametrize(("options", "end"), [(["-"], b"\n"), (["--from0"], b"\0")])
def test_a_list_on_stdin(photos, options, end, capsys, monkeypatch):
    names = [f"photos/p {n}.png".encode() for n in (2, 3)]
    feed(monkeypatch, end.join(names) + end)
    assert main(["search", *options, "-k", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["searches"]
    assert [one["query"].encode() for one in found] == names
    assert [one["hits"][0]["key"] for one in found] == [str(photos / f"p {n}.png") for n in (2, 3)]
    feed(monkeypatch, b"")
    assert main(["search", *options]) == 2
    assert "no image to search for" in capsys.readouterr().err


def test_hits_for_xargs_without_the_image_itself(photos, capsys):
    assert main(["search", "photos/p 0.png", "-0", "--exclude-self"]) == 0
    keys = capsys.readouterr().out.split("\0")
    assert keys.pop() == ""
    assert sorted(keys) == [str(photos / f"p {n}.png") for n in (1, 2, 3)]


def test_a_page_is_of_one_image(photos, capsys):
    assert main(["search", "photos/p 0.png", "photos/p 1.png", "--html", "x.html"]) == 2
    assert "--html shows one search, but there are 2 images" in capsys.readouterr().err


def test_without_a_command_it_prints_the_help(capsys):
    assert main([]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("usage: bitgaze")
    assert "search" in out
    assert err == ""


def test_print0_and_json_cannot_be_combined(photos, capsys):
    assert main(["search", str(photos / "p0.png"), "--print0", "--json"]) == 2
    assert "--print0 and --json cannot be combined" in capsys.readouterr().err


def test_info_tells_formats_and_the_model(photos, capsys):
    smooth_image(9).save(photos / "a.JPG")
    assert main(["index"]) == 0
    capsys.readouterr()
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "\nformats      4 .png, 1 .jpg\n" in out
    assert f"\nmodel_file   {DEFAULT_MODEL}\n" in out


@pytest.mark.skipif(shutil.which("bash") is None, reason="requires bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["sea"], ["search"]),
        (["search", "--ex"], ["--exclude-self"]),
        (["index", "--dr"], ["--dry-run"]),
        (["info", "--dr"], []),
        (["search", "photo"], []),
    ],
)
def test_bash_completes_commands_and_options(words, expected, capsys):
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    line = " ".join(["bitgaze", *words])
    ask = f'COMP_WORDS=({line}); COMP_CWORD={len(words)}; _bitgaze; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.split() == expected
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out == "autoload -U +X compinit bashcompinit && compinit && " + (
        "bashcompinit\n" + script
    )


def test_watch_indexes_what_changes(photos, capsys, monkeypatch):
    seen = []

    def changes(*folders, watch_filter, debounce, rust_timeout, yield_on_timeout):
        seen.extend(folders)
        yield set()  # watching has begun: now the first index
        yield set()
        smooth_image(7).save(photos / "new.png")
        names = ["new.png", "x.heic", "folder", "notes.txt", "gallery.bitgaze-wal"]
        seen.append([name for name in names if watch_filter(1, str(photos / name))])
        yield {(1, str(photos / "new.png"))}
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "watchfiles", SimpleNamespace(watch=changes))
    assert main(["watch", "photos"]) == 0
    out, err = capsys.readouterr()
    assert out.count(" added, ") == 2
    assert "\n1 added, 0 updated" in out
    assert seen[-1] == ["new.png", "x.heic", "folder"]
    assert err.endswith("stopped watching\n")


def test_watch_without_its_extra_says_so(photos, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert main(["watch", "photos"]) == 2
    assert "pip install 'bitgaze[watch]'" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="requires SIGINT")
def test_watch_with_real_changes(photos):
    pytest.importorskip("watchfiles")
    command = [sys.executable, "-m", "bitgaze.cli", "watch", "photos"]
    watching = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert "watching photos" in watching.stderr.readline()
        time.sleep(0.5)
        smooth_image(7).save(photos / "new.png")
        with Gallery("gallery.bitgaze") as gallery:
            for _ in range(600):
                if str(photos / "new.png") in gallery:
                    break
                time.sleep(0.1)
            assert len(gallery) == 5
    finally:
        os.kill(watching.pid, signal.SIGINT)
        watching.communicate()
    assert watching.returncode in (0, 130)


def test_copies_are_folded_and_unrelated_hits_announced(photos, examples, capsys):
    image = Image.open(examples / "birds/toucan.jpg").convert("RGB").resize((240, 180))
    image.save("photos/bird.png")
    for quality in (60, 80):
        image.save(f"photos/bird {quality}.jpg", quality=quality)
    shutil.copyfile("photos/p 1.png", "photos/p 1 again.png")  # plain, and identical
    assert main(["index", "photos"]) == 0
    capsys.readouterr()
    assert main(["search", "photos/bird.png", "-k", "5", "--html", "page.html"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("bird.png  (+2 alike)")
    assert lines[1] == f"{UNRELATED}:"
    assert len(lines) == 6
    assert sum(line.endswith("(+1 alike)") for line in lines) == 1
    page = Path("page.html").read_text()
    assert page.count('<li class="divider">') == 1
    assert page.index("+2 alike") < page.index(UNRELATED) < page.index("+1 alike")
    assert main(["search", "photos/bird.png", "-k", "5", "--unfold"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == f"{UNRELATED}:"
    assert not any("alike" in line for line in lines)
    assert main(["search", "photos/bird.png", "-k", "5", "--unfold", "--ranking=asymmetric"]) == 0
    assert UNRELATED not in capsys.readouterr().out
    assert main(["search", "photos/bird.png", "-k", "2", "--json"]) == 0
    keys = [Path(hit["key"]).name for hit in json.loads(capsys.readouterr().out)["hits"]]
    assert keys[0] == "bird.png"
    assert keys[1].endswith(".jpg")
    with Gallery("gallery.bitgaze") as gallery:
        best, *others = gallery.search("photos/bird.png", k=3, fold=True)
        assert sorted(Path(key).name for key in best.alike) == ["bird 60.jpg", "bird 80.jpg"]
        assert len(others) == 2
        assert gallery.search("photos/bird.png", k=1)[0].alike == ()
