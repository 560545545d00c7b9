"""`bitgaze index`: its options, its progress, and Ctrl-C."""

import io
import json
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from bitgaze import Gallery
from bitgaze.cli import index, terminal, upkeep
from bitgaze.cli.main import main
from conftest import smooth_image


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with folders one and two of two images each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITGAZE_GALLERY", raising=False)
    for seed, name in enumerate(["one/a.png", "one/b.jpg", "two/c.png", "two/raw/d.png"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        smooth_image(seed).save(path)
    return tmp_path


def items(path="gallery.bitgaze"):
    """The metadata of each item, by relative path."""
    with Gallery(path, create=False) as gallery:
        return {
            str(Path(key).relative_to(Path.cwd())): gallery.get(key).metadata for key in gallery
        }


def test_several_folders_follow_a_moved_image(here, capsys):
    assert main(["index", "one", "two"]) == 0
    assert list(items()) == ["one/a.png", "one/b.jpg", "two/c.png", "two/raw/d.png"]
    (here / "one" / "a.png").rename(here / "two" / "e.png")
    capsys.readouterr()
    assert main(["index", "two", "one"]) == 0
    assert capsys.readouterr().out.startswith("0 added, 0 updated, 1 moved, 0 removed, 3 unchanged")


def test_include_and_exclude(here, capsys):
    assert main(["index", "one", "two", "--include", "*.png", "--include=*.gif"]) == 0
    assert list(items()) == ["one/a.png", "two/c.png", "two/raw/d.png"]
    capsys.readouterr()
    assert main(["index", "one", "two", "--exclude", "raw", "--exclude", "a.*"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 added, 0 updated, 0 moved, 0 removed, 1 unchanged")
    assert "\n2 left unchanged: hidden, or excluded by a pattern\n" in out
    assert main(["index", "one", "--exclude", ""]) == 2
    assert "exclude: '' matches nothing" in capsys.readouterr().err


def test_set_gives_new_images_metadata(here):
    values = ["year=2024", "album=Rome", "tags=[1, null]", "empty=", "nan=NaN", "eq=a=b", "t=07"]
    assert main(["index", "one", *(f"--set={value}" for value in values)]) == 0
    expected = {
        "year": 2024,
        "album": "Rome",
        "tags": [1, None],
        "empty": "",
        "nan": "NaN",
        "eq": "a=b",
        "t": "07",
    }
    assert items() == {"one/a.png": expected, "one/b.jpg": expected}
    assert main(["index", "one", "two"]) == 0
    assert items() == {
        "one/a.png": expected,
        "one/b.jpg": expected,
        "two/c.png": {},
        "two/raw/d.png": {},
    }


@pytest.mark.parametrize("wrong", ["album", "=Rome"])
def test_set_requires_a_name_and_a_value_once(here, wrong, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["index", "one", "--set", wrong])
    assert stop.value.code == 2
    assert f"{wrong!r}: expected NAME=VALUE" in capsys.readouterr().err
    assert main(["index", "one", "--set", "a=1", "--set", "a=2"]) == 2
    assert "--set has 'a' twice" in capsys.readouterr().err
    assert not Path("gallery.bitgaze").exists()


def test_a_dry_run_creates_no_gallery(here, capsys):
    assert main(["index", "one", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[:2] == [f"add     {here}/one/a.png", f"add     {here}/one/b.jpg"]
    assert lines[2] == "dry run: nothing was written. Without --dry-run:"
    assert lines[3].startswith("2 added, 0 updated, 0 moved, 0 removed, 0 unchanged, 0 refused")
    assert err == ""
    assert sorted(path.name for path in here.iterdir()) == ["one", "two"]


def test_a_dry_run_prints_what_a_run_does(here, capsys):
    assert main(["index", "one", "two"]) == 0
    before = items()
    one, two = here / "one", here / "two"
    (one / "a.png").rename(one / "new.png")
    smooth_image(8).save(one / "b.jpg")
    (two / "c.png").unlink()
    smooth_image(9).save(two / "e.png")
    capsys.readouterr()
    assert main(["index", "one", "two", "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines()[:4] == [
        f"add     {two}/e.png",
        f"update  {one}/b.jpg",
        f"move    {one}/a.png -> {one}/new.png",
        f"remove  {two}/c.png",
    ]
    assert items() == before
    reports = []
    for options in (["--dry-run"], []):
        assert main(["index", "one", "two", "--json", *options]) == 0
        reports.append(json.loads(capsys.readouterr().out))
        assert reports[-1].pop("seconds") > 0
    assert [(report.pop("dry_run"), report.pop("items")) for report in reports] == [
        (True, 4),
        (False, 4),
    ]
    assert reports[0] == reports[1]
    assert reports[0]["moved"] == [[f"{one}/a.png", f"{one}/new.png"]]


def test_many_skipped_links_are_listed_in_json_only(here, capsys):
    for number in range(12):
        (here / "one" / f"link{number:02}.png").symlink_to("a.png")
    assert main(["index", "one"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11
    again = "a link to an image that was found elsewhere"
    assert lines[0] == f"bitgaze: skipped {here}/one/link00.png: {again}"
    assert lines[10] == "bitgaze: skipped 2 more; --json lists all"
    assert main(["index", "one", "--json"]) == 0
    skipped = json.loads(capsys.readouterr().out)["skipped"]
    assert len(skipped) == 12
    link = f"{here}/one/link00.png"
    assert skipped[link].startswith("a link to ")
    assert lines[0] == f"bitgaze: skipped {link}: {skipped[link]}"


def interrupted_at(number):
    """Like `terminal.progress`, with Ctrl-C when `number` are done."""

    @contextmanager
    def progress(what, unit):
        def show(done, total):
            if done == number:
                signal.raise_signal(signal.SIGINT)

        yield show

    return progress


@pytest.fixture
def many(here, capsys):
    # A shell that runs the tests in the background makes them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = here / "many"
    folder.mkdir()
    for seed in range(66):
        smooth_image(seed, (16, 16)).save(folder / f"{seed:02}.png")
    yield folder
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_while_encoding_keeps_what_is_done(many, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(index, "progress", interrupted_at(35))
        assert main(["index", "many"]) == 130
    assert capsys.readouterr() == (
        "",
        "bitgaze: interrupted: 32 of 66 images are done and saved, 34 are left; run it again "
        "to continue\n",
    )
    assert len(items()) == 32
    assert main(["index", "many"]) == 0
    assert capsys.readouterr().out.startswith("34 added, 0 updated, 0 moved, 0 removed, 32 unch")


def test_an_interrupt_before_encoding(many, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bitgaze.gallery.sync.sync.scan", interrupt)
    assert main(["index", "many"]) == 130
    assert capsys.readouterr() == ("", "bitgaze: interrupted: everything done so far is kept\n")


def test_an_interrupted_adapt_changes_nothing(many, monkeypatch, capsys):
    assert main(["index", "many"]) == 0
    before = Path("gallery.bitgaze").read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(upkeep, "progress", interrupted_at(3))
        assert main(["adapt"]) == 130
    assert capsys.readouterr() == ("", "bitgaze: interrupted: nothing was changed\n")
    assert Path("gallery.bitgaze").read_bytes() == before
    adapt = Gallery.adapt

    def too_late(gallery, **arguments):
        adapt(gallery, **arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Gallery, "adapt", too_late)
    monkeypatch.setattr("bitgaze.gallery.adaptation._STEPS", 2)
    assert main(["adapt"]) == 130
    assert capsys.readouterr() == ("", "bitgaze: interrupted: all codes were updated\n")


def test_an_interrupt_elsewhere(here, monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("bitgaze.gallery.gallery.Gallery", interrupt)
    assert main(["info"]) == 130
    assert capsys.readouterr() == ("", "bitgaze: interrupted\n")


def test_progress_lines_without_a_terminal(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: now))
    with terminal.progress("indexing", "images") as show:
        for done in range(1, 10_001):
            now += 1 / 256
            show(done, 10_000)
    assert capsys.readouterr().err.splitlines() == [
        "indexing: 2,560 of 10,000 images, 256 a second, 29 s left",
        "indexing: 5,120 of 10,000 images, 256 a second, 19 s left",
        "indexing: 7,680 of 10,000 images, 256 a second, 9 s left",
    ]
    with terminal.progress("indexing", "images") as show:
        now += 20
        show(5, 5)  # files compared; the next count starts now
        for done in range(1, 4):
            now += 8
            show(done, 1000)
    assert capsys.readouterr().err.splitlines() == [
        "indexing: 1 of 1,000 images, 0.1 a second, 2 h 13 min left",
        "indexing: 3 of 1,000 images, 0.1 a second, 2 h 13 min left",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99.4, "99 s"), (100, "2 min"), (5940, "99 min"), (6000, "1 h 40 min")],
)
def test_duration_as_text(seconds, text):
    assert terminal.duration(seconds) == text


def test_one_image_is_singular():
    assert [terminal.images(n) for n in range(3)] == ["0 images", "1 image", "2 images"]


def test_progress_bar_on_a_terminal(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(
        terminal, "_BAR", {"delay": 0, "mininterval": 0, "miniters": 1, "ncols": 60}
    )
    with terminal.progress("indexing", "images") as show:
        show(1, 4)
        show(4, 4)
        show(2, 8)
    shown = [line for line in screen.getvalue().split("\r") if line.strip()]
    counts = [line.split("[")[0].split("|")[-1].strip() for line in shown]
    assert counts[-4:] == ["1/4", "4/4", "0/8", "2/8"]
    assert all("indexing:" in line and " images/s" in line for line in shown[-4:])


def test_system_folders_are_counted_and_forget_removes_them(here, capsys):
    smooth_image(7).save(here / "one" / "z.png")
    (here / "one" / "@eaDir").mkdir()
    (here / "one" / "z.png").rename(here / "one" / "@eaDir" / "z.png")
    assert main(["index", "one"]) == 0
    assert "\n1 system folders left out; --all-folders takes them\n" in capsys.readouterr().out
    assert main(["index", "one", "--all-folders"]) == 0
    assert "one/@eaDir/z.png" in items()
    capsys.readouterr()
    assert main(["forget", "@eaDir", "--dry-run"]) == 1  # a folder here
    assert main(["forget", "@ea*", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert f"forget  {here / 'one' / '@eaDir' / 'z.png'}\ndry run: nothing was written\n" in out
    assert main(["forget", "@ea*", "two"]) == 0
    assert capsys.readouterr().out == "1 forgotten\ngallery.bitgaze: 2 images\n"
    assert main(["forget", "one/a.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["forgotten"] == [str(here / "one" / "a.png")]
    assert list(items()) == ["one/b.jpg"]
    assert main(["forget", "none"]) == 1
