import re
import shutil

from PIL import Image

import documents
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_as_it_stands(tmp_path, monkeypatch, examples, capsys):
    (code,) = [text for language, text in documents.blocks(README) if language == "python"]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(examples / "birds", "photos")
    shutil.copy(ROOT / "examples" / "queries" / "bird.jpg", "query.jpg")
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{len(list((examples / 'birds').iterdir()))} added, 0 refused"
    assert len(lines) == 16
    assert names["distances"].tolist() == [[0]]


def test_every_command_and_option_that_is_named_exists():
    lines = re.findall(r"^bitgaze .+", README, re.MULTILINE)
    named = list(documents.commands("\n".join(lines)))
    assert len(named) >= 5
    for words in named:
        documents.parse(words)


def test_the_number_of_example_images(examples):
    count = sum(path.is_file() for path in examples.rglob("*"))
    assert f"index {count} example images" in README


def test_every_figure_is_in_the_results():
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    known = {float(figure) for figure in re.findall(r"\d*\.?\d+", results.replace(",", ""))}
    table = README.partition("| measurement | result |")[2].partition("\n\n")[0]
    cells = [row.split("|")[2] for row in table.splitlines()[2:]]
    figures = re.findall(r"\d*\.?\d+", " ".join(cells))
    assert len(figures) >= 10
    assert [figure for figure in figures if float(figure) not in known] == []


def test_the_image_shows_what_the_demo_writes(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import hero

    with Image.open(hero.HERO) as image:
        shown = image.info["comment"].decode()
    page = hero.demo_page(tmp_path).read_text(encoding="utf-8")
    assert shown == hero.text_of(page), "run: python docs/hero.py"
