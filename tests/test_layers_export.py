"""Layers of attention_hashing: who imports whom."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from conftest import ROOT

EXPORT = ROOT / "export"
PACKAGE = EXPORT / "attention_hashing"

# Packages and top-level modules by layer: each imports only from layers below its own.
LAYERS = [
    {"experiments"},
    {"general"},
    {"features"},
    {"deployment"},
    {"evaluation", "training"},
    {"looking"},
    {"checkpoint", "branch_file", "heads"},
    {"config"},
    {"network", "methods", "backbones", "data"},
    {"attention", "bfloat16", "descent", "progress", "provenance", "torch_file"},
]
# A script that others build on.
SCRIPTS = {("precision_table", "to_onnx"), ("quality_plot", "to_onnx")}


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


def layer(name):
    return next(i for i, packages in enumerate(LAYERS) if name.split(".")[0] in packages)


def test_every_package_has_one_layer():
    named = [package for packages in LAYERS for package in packages]
    assert sorted(named) == sorted({name_of(path).split(".")[0] for path in modules()})


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_downwards(path):
    package = name_of(path).split(".")[0]
    for target in imports(path):
        if target.split(".")[0] != package:
            assert layer(package) < layer(target), f"{name_of(path)} imports {target}"


def test_imports_have_no_cycle():
    TopologicalSorter({name_of(path): set(imports(path)) for path in modules()}).prepare()


def test_scripts_are_imported_only_as_listed():
    scripts = {path.stem for path in EXPORT.glob("*.py")}
    for path in EXPORT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module)
            for name in scripts.intersection(names):
                assert (path.relative_to(EXPORT).stem, name) in SCRIPTS, path


# What a bare `pip install -e .` brings; the rest comes from export/requirements.txt.
INSTALLED = {"PIL", "bitgaze", "numpy", "tqdm"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", sorted(EXPORT.glob("*.py")), ids=lambda path: path.stem)
def test_scripts_import_the_package_before_what_may_be_missing(path):
    """It says what to install."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names.append(node.module)
        first = {name.partition(".")[0] for name in names}
        if first & {"attention_hashing", *(to for _, to in SCRIPTS)}:
            break
        assert first <= INSTALLED


@pytest.mark.parametrize(("script", "package"), [("train", "torch"), ("to_onnx", "onnx")])
def test_a_missing_package_is_one_line(script, package):
    run = f"import runpy, sys; sys.modules[{package!r}] = None; sys.argv = ['{script}.py', 'x']; "
    run += f"runpy.run_path('{script}.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", run],
        cwd=EXPORT,
        env={**os.environ, "PYTHONPATH": f"{EXPORT}{os.pathsep}{ROOT / 'runtime'}"},
        capture_output=True,
        text=True,
    )
    assert done.stderr == (
        f"{script}.py: the package {package} is not installed: pip install -e . -r "
        "export/requirements.txt\n"
    )
    assert done.returncode == 1


def test_every_package_has_a_docstring():
    for path in PACKAGE.rglob("__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=True), path
