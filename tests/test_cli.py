"""The `bitgaze` command: its output, exit codes and messages."""

import contextlib
import json
import os
import platform
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import bitgaze
from bitgaze import Gallery
from bitgaze.cli import page as written
from bitgaze.cli.main import main
from bitgaze.encoding.likeness import COPY
from bitgaze.gallery.info import new_file_id, seal_info
from conftest import smooth_image


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BITGAZE_GALLERY", raising=False)
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(4):
        smooth_image(seed, (90, 60)).save(folder / f"p{seed}.png")
    return folder


def self_hit(path):
    """The line of a search for one of four images, found in itself."""
    return f"  0.0  same kind >99%  identical file 100%  {path}"


@pytest.fixture
def indexed(photos, capsys):
    assert main(["index", str(photos)]) == 0
    capsys.readouterr()
    return photos


def test_index_prints_a_summary(photos, capsys):
    assert main(["index", str(photos)]) == 0
    out, err = capsys.readouterr()
    assert re.match(r"4 added, 0 updated, 0 moved, 0 removed, 0 unchanged, 0 refused, in \d", out)
    assert out.endswith("gallery.bitgaze: 4 images\n")
    assert err == ""
    assert Path("gallery.bitgaze").is_file()


def test_index_names_refused_images(photos, capsys):
    (photos / "broken.jpg").write_text("text")
    (photos / "up").symlink_to("..", target_is_directory=True)
    assert main(["index", str(photos)]) == 1
    out, err = capsys.readouterr()
    assert f"refused {photos}/broken.jpg: not an image" in err
    assert "1 refused" in out


def test_index_prints_json(photos, capsys):
    (photos / "broken.jpg").write_text("text")
    assert main(["index", str(photos), "--json", "-g", "other.bitgaze"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["gallery"] == "other.bitgaze"
    assert document["items"] == 4
    assert document["added"] == [str(photos / f"p{i}.png") for i in range(4)]
    assert list(document["failed"]) == [str(photos / "broken.jpg")]


def test_search_prints_hits_by_distance(indexed, capsys):
    assert main(["search", str(indexed / "p2.png"), "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == self_hit(indexed / "p2.png")
    distances = [float(line.split()[0]) for line in lines]
    assert len(distances) == 3
    assert distances == sorted(distances)


def test_search_prints_json_within_the_radius(indexed, capsys):
    assert main(["search", str(indexed / "p2.png"), "--json", "--radius", "0"]) == 0
    document = json.loads(capsys.readouterr().out)
    key = str(indexed / "p2.png")
    (hit,) = document["hits"]
    assert 0.5 < hit.pop("same_kind") <= 1
    assert hit.pop("same_image") == 1
    place = {"box": None, "query_box": None}
    assert hit == {"key": key, "distance": 0, "metadata": {}, "path": key, **place}


def test_search_in_an_empty_gallery_suggests_index(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smooth_image(99).save("q.png")
    Path("empty").mkdir()
    assert main(["index", "empty"]) == 0
    assert main(["search", "q.png"]) == 0
    assert (
        "gallery.bitgaze contains no images; add some with `bitgaze index"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder where nobody can create a file")
def test_a_gallery_that_cannot_be_created(photos, capsys):
    assert main(["index", str(photos), "-g", "/proc/g.bitgaze"]) == 2
    assert "/proc/g.bitgaze: cannot be opened or created; check the perm" in capsys.readouterr().err


def test_a_damaged_gallery_suggests_repair(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("gallery.bitgaze").write_bytes(b"none")
    assert main(["info"]) == 2
    assert "; recover it with `bitgaze repair NEW -g FILE`" in capsys.readouterr().err
    assert main(["repair", "new.bitgaze"]) == 2
    assert "`bitgaze repair" not in capsys.readouterr().err


def test_nothing_within_the_radius(indexed, tmp_path, capsys):
    smooth_image(99).save(tmp_path / "q.png")
    assert main(["search", "q.png", "--radius", "0"]) == 0
    assert capsys.readouterr() == ("", "bitgaze: nothing found\n")
    assert main(["search", "q.png", "--radius", "0", "--html", "out.html"]) == 0
    assert "<p>none in gallery.bitgaze</p>" in Path("out.html").read_text(encoding="utf-8")


def test_search_html_is_self_contained(indexed, capsys):
    (indexed / "p1.png").unlink()  # a hit whose file is gone
    assert main(["search", str(indexed / "p2.png"), "--html", "out.html"]) == 0
    page = Path("out.html").read_text(encoding="utf-8")
    assert f"page: {Path('out.html').resolve()}" in capsys.readouterr().err
    assert page.count("<li ") == 4
    assert page.count('class="attention"') == 4  # the query and three hits
    assert page.count("the file is gone") == 1
    assert "p2.png" in page
    assert "0 of 128 bits differ" in page
    assert "{{" not in page
    addresses = re.findall(r'src="([^"]{0,30})', page)
    assert addresses
    assert all(address.startswith("data:image/jpeg;base64,") for address in addresses)
    assert "http" not in page.replace(addresses[0], "")
    links = re.findall(r'href="([^"]*)', page)
    names = ("p2.png", "p2.png", "p0.png", "p3.png")  # the query, and hits that are there
    assert sorted(links) == sorted((indexed / name).as_uri() for name in names)


def test_the_page_looks_like_that_of_the_server(indexed, capsys):
    main(["search", str(indexed / "p2.png"), "--html", "out.html"])
    main(["duplicates", "--html", "duplicates.html"])
    style = (Path(bitgaze.__file__).parent / "web" / "serve.css").read_text(encoding="utf-8")
    for name in ("out.html", "duplicates.html"):
        assert style in Path(name).read_text(encoding="utf-8")


def test_its_rules_are_those_of_the_server():
    web = Path(bitgaze.__file__).parent / "web"
    rows, cards, duplicates = (
        (web / f"serve_{name}.js").read_text(encoding="utf-8")
        for name in ("rows", "cards", "duplicates")
    )
    for name, value in (("NARROWEST", written._NARROWEST), ("WIDEST", written._WIDEST)):
        assert f"const {name} = {value};" in rows
    assert "const UNKNOWN = 4 / 3;" in rows
    assert written._UNKNOWN == 4 / 3
    steps = re.findall(r'share >= ([\d.]+)\)? (?:return|\?) "([^"]+)"', cards)
    assert tuple((float(least), words) for least, words in steps) == written._LIKENESS
    assert re.findall(r"same_image >= ([\d.]+)", cards) == [str(COPY)] * 2
    (names,) = re.findall(r"^const NAMES = (.*);$", duplicates, re.MULTILINE)
    pairs = re.findall(r'\["([^"]+)", "([^"]+)"\]', names)
    assert pairs == list(written._NAMES.values())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere, every name is text")
def test_a_link_to_a_file_whose_name_is_no_text(photos, capsys):
    os.rename(photos / "p0.png", os.fsencode(photos) + b"/\xff #?%\"'.png")
    main(["index", str(photos)])
    main(["search", str(photos / "p1.png"), "--html", "out.html"])
    page = Path("out.html").read_text(encoding="utf-8")
    assert f'href="file://{photos}/%FF%20%23%3F%25%22%27.png"' in page


def test_names_are_escaped_in_the_page(photos, capsys):
    smooth_image(50).save(photos / "<img src=x onerror=alert(1)>&.png")
    main(["index", str(photos)])
    main(["search", str(photos / "p1.png"), "--html", "out.html"])
    page = Path("out.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;&amp;.png" in page


def test_a_file_named_like_a_placeholder_is_not_filled_in(photos, capsys):
    smooth_image(50).save(photos / "{{hits}}.png")
    main(["index", str(photos)])
    main(["search", str(photos / "{{hits}}.png"), "--html", "out.html"])
    page = Path("out.html").read_text(encoding="utf-8")
    assert page.count("<li ") == 5
    assert "<h1>Images like {{hits}}.png</h1>" in page


def test_a_page_of_a_gallery_whose_name_is_not_utf8(indexed, capsys):
    gallery = os.fsdecode(b"\xff.bitgaze")
    os.rename("gallery.bitgaze", gallery)
    assert main(["search", str(indexed / "p1.png"), "-g", gallery, "--html", "out.html"]) == 0
    assert r"nearest in \xff.bitgaze" in Path("out.html").read_text(encoding="utf-8")


def test_control_characters_are_escaped_on_a_terminal_only(photos):
    name = f"{photos}/\x1b[2Ja\nb\x9b.png"
    os.rename(photos / "p0.png", name)
    (photos / "\x1b]0;broken\x07.jpg").write_text("text")
    commands = [["index", "photos"], ["search", name, "-k", "1", "--html", "\x1b.html"]]
    for arguments in commands:
        reader, terminal = os.openpty()
        status = subprocess.run(command(*arguments), stdout=terminal, stderr=terminal).returncode
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # a closed terminal
            while part := os.read(reader, 1000):
                shown += part
        os.close(reader)
        assert status == (1 if arguments[0] == "index" else 0)
        assert rb"\x1b" in shown
        assert b"\x1b]" not in shown
        assert b"\x1b[2J" not in shown
        assert b"\x9b" not in shown
        assert b"\x1b.html" not in shown
    assert rb"\x1b[2Ja\x0ab\x9b.png" in shown
    done = subprocess.run(command("search", name, "-k", "1"), capture_output=True)
    assert os.fsencode(name) in done.stdout


def test_info_prints_the_same_facts_as_text_and_json(indexed, capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["items"] == 4
    assert facts["bits"] == 128
    assert (facts["adaptation"], facts["calibration"]) == (None, "model")
    assert facts.pop("sources")["folders"] == [str(indexed)]
    assert f"folder       {indexed}" in text
    for name, value in facts.items():
        shown = "none" if value is None else str(value)
        assert re.search(rf"^{name} +{re.escape(shown)}$", text, re.MULTILINE)


@pytest.fixture
def many(photos, monkeypatch, capsys):
    """A gallery of enough images to adapt to, fast."""
    monkeypatch.setattr("bitgaze.gallery.adaptation._STEPS", 2)
    for seed in range(4, 66):
        smooth_image(seed).save(photos / f"p{seed}.png")
    assert main(["index", str(photos)]) == 0
    capsys.readouterr()
    return photos


def test_adapt_and_reset(many, capsys):
    query = ["search", str(many / "p9.png"), "--json"]
    assert main(query) == 0
    before = json.loads(capsys.readouterr().out)["hits"]
    assert main(["adapt"]) == 0
    out, err = capsys.readouterr()
    adapted = r"66 re-encoded, in \d+\.\d s\ngallery\.bitgaze: adapted: [0-9a-f]{12}\n"
    assert re.fullmatch(adapted, out)
    assert err == ""
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["adaptation"].startswith(out.split()[-1])
    assert facts["calibration"] == "gallery"
    assert main(query) == 0
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert hits[0]["distance"] == 0
    assert hits[0]["same_image"] > 0.9
    assert hits[1]["distance"] != before[1]["distance"]
    assert main(["adapt", "--reset", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "gallery": "gallery.bitgaze",
        "items": 66,
        "adaptation": None,
    }
    assert main(query) == 0
    assert json.loads(capsys.readouterr().out)["hits"] == before
    assert main(["adapt", "--reset"]) == 0
    assert capsys.readouterr().out.startswith("0 re-encoded")


def test_adapt_names_what_prevents_it(many, capsys):
    (many / "p7.png").unlink()
    assert main(["adapt"]) == 2
    assert "p7.png: No such file or directory); sync first" in capsys.readouterr().err
    for seed in range(8, 12):
        (many / f"p{seed}.png").unlink()
    assert main(["index", str(many)]) == 0
    assert main(["adapt"]) == 2
    assert (
        "61 different images, but adapting codes of 128 bits requires at least 64"
        in capsys.readouterr().err
    )
    assert main(["adapt", "-g", "none.bitgaze"]) == 2
    assert not Path("none.bitgaze").exists()


def test_search_prints_probabilities(indexed, capsys):
    tables = {"duplicate": [0.75] * 129, "kind": [], "false_match": [0.5] * 129}
    for kind, shown in (([], ""), ([1.0] * 129, "  same kind >99%")):
        with contextlib.closing(sqlite3.connect("gallery.bitgaze")) as db:
            text = json.dumps({**tables, "kind": kind})
            db.execute("UPDATE info SET value = ? WHERE name = 'calibration'", [text])
            seal_info(db)
            new_file_id(db)
            db.commit()
        assert main(["search", str(indexed / "p2.png"), "--radius", "0", "--html", "o.html"]) == 0
        assert capsys.readouterr().out == (f"  0.0{shown}  identical file 100%  {indexed}/p2.png\n")
        page = Path("o.html").read_text(encoding="utf-8")
        assert "identical file <b>100%</b>" in page
        assert ("same kind <b>&gt;99%</b>" in page) == bool(kind)
    assert main(["info"]) == 0
    assert re.search("^calibration +model$", capsys.readouterr().out, re.MULTILINE)


def test_search_with_asymmetric_ranking(many, capsys):
    from bitgaze import Gallery

    with Gallery("gallery.bitgaze") as gallery:
        expected = gallery.search(many / "p5.png", 20, ranking="asymmetric")
        assert expected != gallery.search(many / "p5.png", 20)
    command = ["search", str(many / "p5.png"), "-k", "20", "--ranking", "asymmetric"]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [hit.key for hit in expected]


def test_the_gallery_comes_from_the_environment(photos, monkeypatch, capsys):
    monkeypatch.setenv("BITGAZE_GALLERY", "mine.bitgaze")
    assert main(["index", str(photos)]) == 0
    assert Path("mine.bitgaze").is_file()
    assert not Path("gallery.bitgaze").exists()


@pytest.mark.parametrize("kernel", ["none", "neon" if platform.machine() == "x86_64" else "avx2"])
def test_a_missing_kernel_stops_search(indexed, kernel):
    environment = {**os.environ, "BITGAZE_SIMD": kernel}
    command = [sys.executable, "-m", "bitgaze.cli", "search", str(indexed / "p0.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("bitgaze: BITGAZE_SIMD")


def command(*arguments):
    """The command line of a subprocess."""
    return [sys.executable, "-m", "bitgaze.cli", *arguments]


COMMANDS = [
    ["index", "photos"],
    ["search", "photos/p0.png"],
    ["search", "photos/p0.png", "--json"],
    ["info"],
    ["verify"],
    ["doctor"],
]


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_closed_pipe_is_silent(indexed, arguments):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command(*arguments), stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_under_stdout_is_reported(indexed, arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command(*arguments), stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "bitgaze: stdout: No space left on device\n")


def test_closed_stdout_and_stderr(indexed):
    def run(redirection, *arguments):
        shell = f"{shlex.join(command(*arguments))} {redirection}"
        return subprocess.run(["sh", "-c", shell], capture_output=True, text=True)

    done = run(">&-", "info")
    assert (done.returncode, done.stderr) == (2, "bitgaze: stdout is closed\n")
    done = run("2>&-", "search", "photos/p0.png", "--radius", "0")
    assert (done.returncode, done.stdout) == (0, f"{self_hit(indexed / 'p0.png')}\n")
    done = run("2>&-", "search", "none.jpg")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_bug_raises_and_is_not_reported_as_a_mistake(indexed, monkeypatch):
    def defect(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("bitgaze.gallery.gallery.Gallery.search", defect)
    with pytest.raises(RuntimeError, match="a defect"):
        main(["search", str(indexed / "p0.png")])


def test_a_gallery_of_an_unknown_user(capsys):
    with pytest.raises(SystemExit):
        main(["info", "-g", "~nobody-of-this-name/g"])
    assert "~nobody-of-this-name/g: no such user" in capsys.readouterr().err


def test_an_empty_environment_variable_is_ignored(indexed, monkeypatch, capsys):
    monkeypatch.setenv("BITGAZE_GALLERY", "")
    assert main(["info"]) == 0
    assert "gallery.bitgaze" in capsys.readouterr().out


def test_a_model_by_file(photos, capsys):
    from bitgaze.encoding.contract import DEFAULT_MODEL

    assert main(["index", str(photos), "-m", str(DEFAULT_MODEL)]) == 0
    assert main(["search", str(photos / "p0.png"), "-m", "none.onnx"]) == 2
    assert "none.onnx: cannot read the model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "x.jpg"], "no such gallery; create it with `bitgaze index"),
        (["info"], "no such gallery"),
        (["index", "none"], "none: not a folder: no such file or folder"),
        (["index", "photos/p1.png"], "p1.png: not a folder but a file; pass the folder"),
        (["info", "-g", "g" * 300], "g: File name too long"),
        (["index", "photos", "-g", "g" * 300], "g: File name too long"),
        (["index", "photos", "-g", "photos"], "photos: is a folder, expected a gallery file"),
    ],
)
def test_a_missing_gallery_or_folder_stops_with_a_message(photos, arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "none.jpg"], "none.jpg: No such file"),
        (["search", "photos"], "photos: a folder; name an image in it"),
        (["search", "photos/p1.png", "--html", "none/x.html"], "x.html: there is no folder"),
        (["backup", "none/x.bitgaze"], "x.bitgaze: the folder none does not exist"),
        (["search", "photos/p1.png", "-k", "0"], "k must be at least 1, got 0"),
        (["search", "photos/p1.png", "--radius=-1"], "radius must be at least 0, got -1"),
        (["search", "photos/p1.png", "--html", "none/out.html"], "there is no folder"),
    ],
)
def test_mistakes_stop_with_a_message(indexed, arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_verify_the_default_model(capsys):
    assert main(["verify"]) == 0
    text = capsys.readouterr().out
    assert "CPUExecutionProvider runs" in text
    assert text.endswith("equal: codes computed here can be compared with others\n")
    assert main(["verify", "--json", "--provider", "auto"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["equal"] is True
    assert found["flipped_stable"] == [0] * len(found["flipped"])


def test_verify_finds_other_codes_and_missing_examples(tmp_path, monkeypatch, capsys):
    """A model whose examples have other codes, and one without examples."""
    from bitgaze.encoding.contract import DEFAULT_MODEL, read_model

    content = DEFAULT_MODEL.read_bytes()
    code = read_model(DEFAULT_MODEL).contract.golden[0].code
    inverted = bytes(255 - byte for byte in code)
    (tmp_path / "other.onnx").write_bytes(
        content.replace(code.hex().encode(), inverted.hex().encode())
    )
    assert main(["verify", "-m", str(tmp_path / "other.onnx")]) == 1
    out, err = capsys.readouterr()
    assert "example 0: 128 of 128 bits differ" in out
    assert "not equal: " in out
    assert err == ""
    assert main(["verify", "-m", str(tmp_path / "other.onnx"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["equal"] is False
    start, end = content.index(b'"golden":['), content.index(b'],"licence"')
    empty = b'"golden":[' + b" " * (end - start - 10)
    (tmp_path / "none.onnx").write_bytes(content[:start] + empty + content[end:])
    assert main(["verify", "-m", str(tmp_path / "none.onnx")]) == 2
    assert "none.onnx: holds no golden examples" in capsys.readouterr().err


def test_doctor_prints_its_findings(monkeypatch, capsys):
    from bitgaze.cli import diagnosis

    assert main(["doctor"]) == 0
    assert capsys.readouterr().out.endswith("findings: none\n")
    finding = diagnosis.Finding("a cold", "it sneezes", "drink tea")
    report = diagnosis.Diagnosis({"onnxruntime": ["onnxruntime 1"]}, {"a": "a runs"}, [finding])
    monkeypatch.setattr(diagnosis, "examine", lambda: report)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "provider     a runs" in out
    assert "problem  a cold\neffect   it sneezes\nfix      drink tea\n\nfindings: 1\n" in out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["remedy"] == "drink tea"


def test_a_named_provider_is_strict_and_auto_warns(indexed, monkeypatch, capsys):
    import onnxruntime

    query = str(indexed / "p0.png")
    assert main(["search", query, "--provider", "cuda", "--provider", "cpu"]) == 2
    assert "bitgaze: onnxruntime 1." in (err := capsys.readouterr().err)
    assert "has no cuda; it has " in err
    assert main(["search", query, "--provider", "CPU", "--radius", "0"]) == 0
    assert capsys.readouterr() == (f"{self_hit(query)}\n", "")
    names = ["CoreMLExecutionProvider", *onnxruntime.get_available_providers()]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    real = onnxruntime.InferenceSession

    def session(path, options, providers, enable_fallback):
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    assert main(["search", query, "--provider", "auto", "--radius", "0"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{self_hit(query)}\n"
    assert err.startswith("bitgaze: CoreMLExecutionProvider is present but not used: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["dance"], ["search", "a", "-k", "many"], ["search", "a", "--ranking", "x"]],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: bitgaze" in capsys.readouterr().err


def test_the_console_script_in_a_terminal_without_unicode(photos):
    """The console script in the C locale, with names that such a terminal cannot show."""
    os.rename(photos / "p1.png", photos / "\u732b.png")
    os.rename(photos / "p2.png", os.fsencode(photos) + b"/\xff.png")
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = Path(sys.executable).with_name("bitgaze")

    def run(*arguments):
        return subprocess.run([script, *arguments], capture_output=True, env=environment)

    done = run("index", str(photos))
    assert (done.returncode, done.stderr) == (0, b"")
    done = run("search", str(photos / "p0.png"))
    assert done.returncode == 0
    assert rb"\u732b.png" in done.stdout
    assert rb"\xff.png" in done.stdout
    assert run("--version").stdout.startswith(b"bitgaze 0.")


def test_a_second_comparison_of_a_field_is_kept_or_refused(photos, capsys):
    assert main(["index", "photos", "--set", "album=Rome", "--set", "year=2020"]) == 0
    conditions = ["--where", "album=Rome", "--where", "year>=2020", "--where", "year<2024"]
    assert main(["search", str(photos / "p0.png"), *conditions]) == 0
    assert main(["search", str(photos / "p0.png"), *conditions, "--where", "album=Paris"]) == 2
    assert "--where album=Paris: a second = for this field" in capsys.readouterr().err


def test_a_condition_on_a_field_that_no_item_has_says_so(photos, capsys):
    assert main(["index", "photos", "--set", "album=Rome", "--set", "year=2020"]) == 0
    query = str(photos / "p0.png")
    capsys.readouterr()
    for options in ([], ["--json"]):
        assert main(["search", query, "--where", "albun=Rome", "--where", "a=1", *options]) == 2
        error = capsys.readouterr().err
        assert "no item has a field 'a' or 'albun'; fields are album, format, height, " in error
    assert main(["search", query, "--where", "album=Paris", "--where", "@key!=x"]) == 0
    assert capsys.readouterr().err == "bitgaze: nothing found\n"


@pytest.mark.parametrize("value", ["1e999", "NaN", "Infinity", "[" * 100_000])
def test_a_value_that_json_cannot_hold_is_text(photos, value, capsys):
    assert main(["index", "photos", "--set", f"what={value}"]) == 0
    query = str(photos / "p0.png")
    assert main(["search", query, "--where", f"what={value}", "-k", "1"]) == 0
    assert self_hit(query) in capsys.readouterr().out


def test_a_missing_folder_creates_no_gallery(photos, capsys):
    assert main(["index", "fotos"]) == 2
    assert "fotos: not a folder" in capsys.readouterr().err
    assert not Path("gallery.bitgaze").exists()


def test_verify_compares_images_with_their_codes(indexed, capsys):
    command = ["verify", "-g", "gallery.bitgaze", "--images"]
    assert main(command) == 0
    count = 4
    assert f"{count} codes compared with their files; 0 not" in capsys.readouterr().out
    (indexed / "p0.png").unlink()
    assert main([*command, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["images"], facts["not_compared"]) == (count - 1, 1)
    assert main(["verify", "--images"]) == 2
    assert "--images needs the gallery" in capsys.readouterr().err


def test_verifying_a_gallery_takes_no_provider(indexed, capsys):
    assert main(["verify", "-g", "gallery.bitgaze", "--provider", "cuda"]) == 2
    assert "--provider apply to a model" in capsys.readouterr().err


def test_an_item_added_by_hand_shows_no_image(photos, capsys):
    with Gallery("gallery.bitgaze") as gallery:
        for key in ("photos/p1.png", "photos/p2.png"):
            gallery.add(key, photos / "p0.png")
    query = str(photos / "p0.png")
    assert main(["search", query, "--html", "search.html"]) == 0
    assert main(["duplicates", "--html", "duplicates.html"]) == 0
    # The query, twice; of the two hits, one is folded into the other.
    for name, images, cards in (("search.html", 2, 1), ("duplicates.html", 0, 2)):
        page = Path(name).read_text()
        assert page.count("data:image/jpeg") == images
        assert page.count("added by hand") == cards
    assert "<p>1 group" in page
