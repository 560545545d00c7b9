"""`examine` on healthy and broken installations, made of real metadata files."""

import shutil
from importlib import metadata
from types import SimpleNamespace

import onnxruntime
import pytest

from bitgaze import simd
from bitgaze.cli.diagnosis import examine
from bitgaze.cores import available_cores
from bitgaze.encoding.providers import CPU


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed packages that importlib.metadata finds instead of the real ones."""

    def install(name, version, *, files=("__init__.py", "capi/core.so"), place="site"):
        folder = tmp_path / place
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        record = [f"onnxruntime/{file}" for file in files]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in record))
        for file in record:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()

    def distributions():
        return metadata.Distribution.discover(path=[str(tmp_path / "site"), str(tmp_path / "late")])

    monkeypatch.setattr(metadata, "distributions", distributions)
    return SimpleNamespace(install=install, folder=tmp_path / "site")


def only_finding():
    (finding,) = examine().findings
    return finding


def test_a_healthy_installation_has_no_findings():
    diagnosis = examine()
    assert diagnosis.findings == []
    assert diagnosis.providers[CPU].startswith("CPUExecutionProvider runs")
    assert diagnosis.facts["simd"] == simd()
    assert diagnosis.facts["cores"] == available_cores()
    assert diagnosis.facts["onnxruntime"][0].endswith(onnxruntime.__version__)
    assert diagnosis.facts["numpy"] == metadata.version("numpy")


@pytest.mark.parametrize(
    "other", ["onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"]
)
def test_two_packages_in_one_folder_conflict(site, other):
    site.install("onnxruntime", "1.32.0")
    site.install(other, "1.31.1")
    site.install("onnxruntime-extensions", "0.15.2", files=())  # uses another folder
    finding = only_finding()
    assert finding.found == f"onnxruntime and {other} are installed into the same folder"
    assert "providers vanish" in finding.harm
    # The accelerated package was installed on purpose.
    assert finding.remedy == (
        f"python -m pip uninstall -y onnxruntime {other} && "
        f"python -m pip install --force-reinstall --no-deps {other}"
    )


def test_a_package_later_on_the_path_is_ignored(site):
    site.install("onnxruntime", "1.32.0")
    site.install("onnxruntime-gpu", "1.31.1", place="late")
    diagnosis = examine()
    assert diagnosis.findings == []
    assert diagnosis.facts["onnxruntime"] == ["onnxruntime 1.32.0"]


def test_files_missing_from_a_package_are_found(site):
    site.install("onnxruntime-gpu", "1.31.1", files=("__init__.py", "capi/core.so", "capi/b.so"))
    (site.folder / "onnxruntime" / "__init__.py").unlink()
    (site.folder / "onnxruntime" / "capi" / "core.so").unlink()
    finding = only_finding()
    assert finding.found == "2 files of onnxruntime-gpu are missing: onnxruntime/__init__.py, ..."
    assert finding.remedy.endswith("--no-deps onnxruntime-gpu==1.31.1")


def test_a_broken_onnxruntime_is_found(site, monkeypatch):
    """An empty folder remains, so the import returns an empty module."""
    shutil.rmtree(site.folder, ignore_errors=True)
    monkeypatch.delattr(onnxruntime, "disable_telemetry_events")
    diagnosis = examine()
    assert diagnosis.providers == {}
    first, second = diagnosis.findings
    assert first.found == "no installed package owns the folder onnxruntime"
    assert "onnxruntime cannot be used" in second.found
    assert second.remedy == "python -m pip install --force-reinstall --no-deps onnxruntime"


def test_a_gpu_library_that_does_not_load_is_found(monkeypatch, tmp_path):
    """onnxruntime lists the provider, but the session starts without it."""
    real = onnxruntime.InferenceSession
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "AzureExecutionProvider", CPU]

    def session(path, options, providers, enable_fallback):
        return real(path, options, providers=[CPU], enable_fallback=enable_fallback)

    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    diagnosis = examine()
    assert list(diagnosis.providers) == [names[0], names[1], CPU]
    assert "did not come up" in diagnosis.providers[names[0]]
    (finding,) = diagnosis.findings
    assert "CUDAExecutionProvider did not come up" in finding.found
    assert "libonnxruntime_providers_cuda.so" in finding.found
    assert finding.harm == "CUDAExecutionProvider and its hardware are not used."
    assert finding.remedy == 'python -m pip install "onnxruntime-gpu[cuda,cudnn]"'


def test_a_missing_kernel_is_found(monkeypatch):
    def absent():
        raise RuntimeError("BITGAZE_SIMD=avx512: this machine has avx2, portable")

    monkeypatch.setattr("bitgaze.cli.diagnosis.simd", absent)
    finding = only_finding()
    assert "this machine has avx2" in finding.found
    assert finding.remedy == "unset BITGAZE_SIMD"
