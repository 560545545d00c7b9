"""The training side's rooms: who imports whom, and that each says what it is for."""

import ast
from graphlib import TopologicalSorter

import pytest

from conftest import ROOT

EXPORT = ROOT / "export"
PACKAGE = EXPORT / "attention_hashing"

# A room is a package of attention_hashing, or a module beside these. Its modules import one
# another, and rooms of the rows below; never a room of their own row or of a row above.
ROWS = [
    {"experiments"},
    {"general"},
    {"features"},
    {"deployment"},
    {"evaluation", "training"},
    {"checkpoint", "branch_file", "heads"},
    {"config"},
    {"network", "methods", "backbones", "data"},
    {"attention", "bfloat16", "descent", "provenance", "torch_file"},
]
# One script that another builds on.
SCRIPTS = {("precision_table", "to_onnx")}


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path):
    """From attention_hashing on: "data.lists", and "data" for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """The modules of attention_hashing that a file imports, inside functions too."""
    names = {name_of(one) for one in modules()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name} has a relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in found:
            first, _, rest = name.partition(".")
            if first == "attention_hashing":
                yield rest if rest in names else rest.rpartition(".")[0]


def row(name):
    return next(i for i, rooms in enumerate(ROWS) if name.split(".")[0] in rooms)


def test_every_room_is_in_the_table_once():
    named = [room for rooms in ROWS for room in rooms]
    assert sorted(named) == sorted({name_of(path).split(".")[0] for path in modules()})


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_downwards(path):
    room = name_of(path).split(".")[0]
    for target in imports(path):
        if target.split(".")[0] != room:
            assert row(room) < row(target), f"{name_of(path)} imports {target}"


def test_no_circle_of_imports():
    TopologicalSorter({name_of(path): set(imports(path)) for path in modules()}).prepare()


def test_only_the_table_lets_a_file_import_a_script():
    scripts = {path.stem for path in EXPORT.glob("*.py")}
    for path in EXPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module)
            for name in scripts.intersection(names):
                assert (path.relative_to(EXPORT).stem, name) in SCRIPTS, path


def test_every_room_says_what_it_is_for():
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=True), path
