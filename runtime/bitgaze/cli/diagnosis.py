"""Checks an installation: its packages and its execution providers. Changes nothing."""

import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from bitgaze.cores import available_cores
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.providers import CPU, open_session, present_providers
from bitgaze.errors import BitgazeError
from bitgaze.hamming import simd

_FOLDER = "onnxruntime"
_REINSTALL = "python -m pip install --force-reinstall --no-deps"
# The extras bring the CUDA libraries.
_CUDA = 'python -m pip install "onnxruntime-gpu[cuda,cudnn]"'


@dataclass(frozen=True)
class Finding:
    """A problem.

    Attributes:
        found: what is wrong.
        harm: why it matters.
        remedy: the command that fixes it.
    """

    found: str
    harm: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The parts of an installation, and its problems.

    Attributes:
        facts: versions, cores and SIMD kernel, by name; JSON can hold them.
        providers: each execution provider's report on the default model, or why it fails to start.
        findings: the problems; empty if the installation is healthy.
    """

    facts: dict[str, Any]
    providers: dict[str, str]
    findings: list[Finding]


def examine() -> Diagnosis:
    """Check packages, processor and execution providers."""
    facts: dict[str, Any] = {
        "bitgaze": _version("bitgaze"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": _version("numpy"),
        "Pillow": _version("Pillow"),
        "cores": available_cores(),
    }
    findings: list[Finding] = []
    try:
        facts["simd"] = simd()
    except RuntimeError as error:  # BITGAZE_SIMD names a kernel that this machine lacks
        findings.append(Finding(str(error), "Searching fails.", "unset BITGAZE_SIMD"))
    owners = _owners()
    facts["onnxruntime"] = [f"{owner.name} {owner.version}" for owner in owners]
    findings += _conflicts(owners)
    providers: dict[str, str] = {}
    try:
        present = present_providers()
    except Exception as error:  # a broken package may raise anything
        findings.append(_broken(owners, str(error)))
    else:
        providers, failures = _try_providers(present)
        findings += failures
    return Diagnosis(facts, providers, findings)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _owners() -> list[metadata.Distribution]:
    """The installed packages that put files into the folder `onnxruntime`.

    onnxruntime, onnxruntime-gpu, onnxruntime-openvino, ...: pip lets them overwrite each other.
    """
    owners: dict[str, metadata.Distribution] = {}
    folder = None
    for found in metadata.distributions():  # in the order of sys.path
        if not str(found.metadata["Name"]).lower().startswith(_FOLDER):
            continue
        if any(file.as_posix() == f"{_FOLDER}/__init__.py" for file in found.files or ()):
            folder = folder or found.locate_file(_FOLDER)
            if found.locate_file(_FOLDER) == folder:  # else an earlier sys.path entry hides it
                owners.setdefault(found.name, found)
    return sorted(owners.values(), key=lambda owner: owner.name)


def _conflicts(owners: list[metadata.Distribution]) -> list[Finding]:
    if not owners:
        return [_broken(owners, "no installed package owns the folder onnxruntime")]
    if len(owners) > 1:
        names = [owner.name for owner in owners]
        # A package other than the plain one was installed on purpose.
        kept = next(name for name in reversed(names) if name != _FOLDER)
        return [
            Finding(
                f"{' and '.join(names)} are installed into the same folder",
                "The one installed last has overwritten files of the other: providers vanish, and "
                "removing either one breaks the other.",
                f"python -m pip uninstall -y {' '.join(names)} && {_REINSTALL} {kept}",
            )
        ]
    (owner,) = owners
    missing = [
        file
        for file in owner.files or ()
        if file.parts[0] == _FOLDER and "__pycache__" not in file.parts
        if not file.locate().exists()  # type: ignore[attr-defined]
    ]
    if missing:
        return [
            _broken(owners, f"{len(missing)} files of {owner.name} are missing: {missing[0]}, ...")
        ]
    return []


def _broken(owners: list[metadata.Distribution], found: str) -> Finding:
    name = f"{owners[0].name}=={owners[0].version}" if owners else _FOLDER
    return Finding(
        found,
        "Encoding fails, or uses another copy. This happens when one of two onnxruntime packages "
        "that share a folder is removed.",
        f"{_REINSTALL} {name}",
    )


def _try_providers(present: list[str]) -> tuple[dict[str, str], list[Finding]]:
    """Open a session on each provider alone; the reports, and a finding for each failure."""
    providers: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name in present:
        if name == "AzureExecutionProvider":  # in every package; calls a service, runs no operator
            continue
        try:
            _, report = open_session(DEFAULT_MODEL, [name], available_cores())
            providers[name] = str(report)
        except BitgazeError as error:
            providers[name] = failed[name] = str(error)
    # Every CUDA package has it, and it needs one more library, which few have; CUDA is enough.
    failed.pop("TensorrtExecutionProvider", None)
    remedies = {CPU: f"{_REINSTALL} bitgaze {_FOLDER}", "CUDAExecutionProvider": _CUDA}
    findings = [
        Finding(
            reason,
            "Encoding fails." if name == CPU else f"{name} and its hardware are not used.",
            remedies.get(name, f"install the driver and the libraries that {name} requires"),
        )
        for name, reason in failed.items()
    ]
    return providers, findings
