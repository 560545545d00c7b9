"""The examples of the guides and the reference run; the reference matches the code."""

import re
import shutil
import sys

import pytest

import bitgaze
import documents
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.gallery.website import SITE
from conftest import ROOT

_FOLDERS = ("birds", "cats-and-dogs", "castles-and-palaces", "ancient-sites")
_NEEDS = {"guide-app": "imagehash", "guide-engines": "faiss", "guide-training": "torch"}
_MORE = ("city-and-buildings", "farm-animals")  # for `adapt`, which takes 64


@pytest.fixture
def home(tmp_path, examples):
    """A user's folder, as the guides assume it."""
    for folder in (*_FOLDERS, *_MORE):
        shutil.copytree(examples / folder, tmp_path / "Photos" / folder)
    shutil.copytree(examples / "temples-churches-memorials", tmp_path / "Travel")
    for name in ("bird.jpg", "mausoleum.jpg"):
        shutil.copy(ROOT / "examples" / "queries" / name, tmp_path)
    for name in ("mine.onnx", "general-large.onnx"):  # what the guide to training ends with
        shutil.copy(DEFAULT_MODEL, tmp_path / name)
    return tmp_path


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import reference

    yield reference
    del sys.modules["reference"]


@pytest.mark.parametrize("guide", sorted((ROOT / "docs").glob("guide-*.md")), ids=lambda p: p.stem)
def test_the_examples_of_a_guide_run(guide, home, capsys, monkeypatch):
    if guide.stem in _NEEDS:
        pytest.importorskip(_NEEDS[guide.stem])
    if guide.stem == "guide-web" and not (SITE / "index.html").is_file():
        pytest.skip("the page is not built (make web)")
    assert documents.run(guide, home, capsys, monkeypatch) >= 5


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nbitgaze search nothing.jpg\n```",
        "```sh\nbitgaze info --nonsense\n```",
        "```sh\nreboot\n```",
        "```sh\npython export/train.py --nonsense\n```",
        "```python\nassert 1 == 2\n```",
        "```python\nprint('one word')\n```\n```text\nother words\n```",
        "```js\n1\n```",
        "```crontab\n0 3 * * * bitgaze index --such\n```",
    ],
)
def test_a_wrong_example_is_noticed(text, tmp_path, capsys, monkeypatch):
    guide = tmp_path / "guide.md"
    guide.write_text(text + "\n", encoding="utf-8")
    with pytest.raises((AssertionError, SystemExit)):
        documents.run(guide, tmp_path, capsys, monkeypatch)


@pytest.mark.parametrize("name", ["cli.md", "api.md", "api-more.md"])
def test_the_reference_matches_the_code(reference, name):
    committed = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert reference.pages()[name] == committed, "run: python docs/reference.py"


def test_the_reference_has_every_public_name(reference):
    pages = reference.pages()
    entries = re.findall(r"^##+ (\w+)$", pages["api.md"] + pages["api-more.md"], re.MULTILINE)
    errors = re.findall(r"^\| `(\w+)` \|", pages["api.md"], re.MULTILINE)
    assert [name for name in bitgaze.__all__ if (entries + errors).count(name) != 1] == []


def test_the_examples_of_the_reference_run(home, capsys, monkeypatch):
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    code = [block for language, block in documents.blocks(text) if language == "python"]
    assert len(code) == 5
    monkeypatch.chdir(home)
    (home / "Photos").rename("photos")
    (home / "bird.jpg").rename("query.jpg")
    names = {}
    for block in code:
        exec(compile(block, "api.md", "exec"), names)
    assert [hit.distance for hit in names["hits"]] == sorted(h.distance for h in names["hits"])
    assert names["distances"].shape == (2, 2)
    assert "missing.jpg" in capsys.readouterr().out


def test_the_index_leads_to_every_document():
    docs = ROOT / "docs"
    index = (docs / "README.md").read_text(encoding="utf-8")
    names = [path.name for path in docs.glob("*.md") if path.name != "README.md"]
    assert len(names) >= 7
    assert [name for name in names if f"]({name})" not in index] == []


@pytest.mark.parametrize(
    "path", [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")], ids=lambda path: path.stem
)
def test_links_to_headings_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\(([\w./-]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
        text = (path.parent / target if target else path).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in headings}
        anchors.update(re.findall(r'<a id="([^"]+)"', text))
        assert anchor in anchors, f"{path.name} links to {target}#{anchor}"
