"""Which hardware runs a model: a session on the execution providers that a user wants.

Knows onnxruntime's providers, device policies and plugin libraries, and asks the session itself
what came of it. Does not know what a model computes (encoder.py does).
"""

import ctypes
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bitgaze.errors import ModelError, ProviderError, ProviderWarning

Provider: TypeAlias = str | tuple[str, Mapping[str, str]]
Providers: TypeAlias = str | Sequence[Provider]

CPU = "CPUExecutionProvider"
# What "auto" tries, in this order. Not among them: Azure, which sends images over a network, and
# what is no faster than the CPU provider on the same CPU.
PREFERENCE = (
    "NvTensorRTRTXExecutionProvider",
    "TensorrtExecutionProvider",
    "CUDAExecutionProvider",
    "MIGraphXExecutionProvider",
    "ROCMExecutionProvider",
    "OpenVINOExecutionProvider",
    "CoreMLExecutionProvider",
    "QNNExecutionProvider",
    "VitisAIExecutionProvider",
    "CANNExecutionProvider",
    "DmlExecutionProvider",
    "WebGpuExecutionProvider",
    "NnapiExecutionProvider",
    CPU,
)
POLICIES = (
    "prefer_cpu",
    "prefer_gpu",
    "prefer_npu",
    "max_performance",
    "max_efficiency",
    "min_overall_power",
)
# What `providers` may be besides a list.
WORDS = ("auto", *POLICIES)


@dataclass(frozen=True)
class ProviderReport:
    """What runs a model, as the session itself tells.

    Attributes:
        providers: what the session came up with, in its order. The CPU is always the last.
        nodes: provider to the number of graph nodes that it runs, or None where this onnxruntime
            does not tell.
        passed_over: with "auto", each provider that is present but was not used, with the reason.
        onnxruntime: its version.
    """

    providers: tuple[str, ...]
    nodes: dict[str, int] | None
    passed_over: dict[str, str] = field(default_factory=dict)
    onnxruntime: str = ""

    def __str__(self) -> str:
        if self.nodes is None:
            return (
                f"{', '.join(self.providers)} (onnxruntime {self.onnxruntime} does not tell "
                "which of them runs how much)"
            )
        total = sum(self.nodes.values())
        return ", ".join(f"{name} runs {n} of {total} nodes" for name, n in self.nodes.items())


def present_providers() -> list[str]:
    """Providers that this onnxruntime has, built in or registered, in its order.

    That one is present does not say that it comes up: its libraries or its device may be missing.
    """
    ort = _onnxruntime()
    return list(dict.fromkeys([*ort.get_available_providers(), *_devices(ort)]))


def register_provider(name: str, library: str | os.PathLike[str]) -> list[str]:
    """Make a provider out of a plugin library known to onnxruntime, for this process.

    Such libraries come in packages of their own and work beside the plain onnxruntime. They tell
    where they lie, for example `onnxruntime_ep_openvino.get_library_path()`. Another process has to
    register it again before it makes or unpickles an encoder.

    Args:
        name: by which onnxruntime is to know the library; not yet taken.
        library: path of the library.

    Returns:
        The providers that it brought, for `Encoder(providers=...)`; empty if it supports no device
        of this machine.

    Raises:
        ProviderError: the library does not load, its name is taken, or onnxruntime is too old.
    """
    ort = _onnxruntime()
    if not hasattr(ort, "register_execution_provider_library"):
        raise ProviderError(
            f"onnxruntime {ort.__version__} takes no plugin libraries; install a newer one"
        )
    before = {name: len(devices) for name, devices in _devices(ort).items()}
    try:
        ort.register_execution_provider_library(name, os.fspath(library))
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise ProviderError(
            f"{name}: onnxruntime cannot register the library: {_line(error)}"
        ) from error
    return [name for name, now in _devices(ort).items() if len(now) > before.get(name, 0)]


def open_session(path: Path, providers: Providers, threads: int) -> tuple[Any, ProviderReport]:
    """An onnxruntime session for a model file, and what runs it.

    Args:
        path: the model file.
        providers: as `bitgaze.Encoder` takes them.
        threads: for the session.

    Raises:
        ModelError: onnxruntime cannot load the model.
        ProviderError: what was named is absent, did not come up, or runs nothing; or onnxruntime
            itself is broken.
        TypeError: `providers` is neither a word nor a list of names.
        ValueError: an unknown word, no provider named, or options that would be ignored.
    """
    if providers == "auto":
        return _automatic(path, threads)
    if isinstance(providers, str):
        return _by_policy(path, providers, threads)
    return _named(path, _checked(providers), threads)


def _automatic(path: Path, threads: int) -> tuple[Any, ProviderReport]:
    present = present_providers()
    passed_over: dict[str, str] = {}
    for name in PREFERENCE:
        if name not in present or name == CPU:
            continue
        try:
            session, report = _named(path, [(name, {})], threads)
        except ProviderError as error:
            passed_over[name] = str(error)
            message = f"{name} is present but not used: {error}"
            warnings.warn(message, ProviderWarning, stacklevel=_outside())
        else:
            return session, ProviderReport(
                report.providers, report.nodes, passed_over, report.onnxruntime
            )
    session, report = _named(path, [(CPU, {})], threads)
    return session, ProviderReport(report.providers, report.nodes, passed_over, report.onnxruntime)


def _by_policy(path: Path, policy: str, threads: int) -> tuple[Any, ProviderReport]:
    if policy not in POLICIES:
        raise ValueError(
            f"providers is {policy!r}, expected a list of names, or one of "
            f"{', '.join(map(repr, WORDS))}"
        )
    ort = _onnxruntime()
    options = _options(ort, threads)
    if not hasattr(options, "set_provider_selection_policy"):
        raise ProviderError(
            f"onnxruntime {ort.__version__} knows no {policy}; install a newer one, or name the "
            "providers"
        )
    known = ort.OrtExecutionProviderDevicePolicy
    options.set_provider_selection_policy(getattr(known, policy.upper()))
    session = _create(ort, path, options, None, policy)
    report = _report(ort, session)
    if policy in ("prefer_gpu", "prefer_npu") and report.providers == (CPU,):
        message = f"{policy}: onnxruntime offers no such device here, the CPU runs the model"
        warnings.warn(message, ProviderWarning, stacklevel=_outside())
    return session, report


def _named(
    path: Path, wanted: list[tuple[str, dict[str, str]]], threads: int
) -> tuple[Any, ProviderReport]:
    """A session on just these providers, or an error that says why not."""
    ort = _onnxruntime()
    present = present_providers()
    wanted = [(_full_name(name, present), options) for name, options in wanted]
    names = [name for name, _ in wanted]
    if absent := [name for name in names if name not in present]:
        raise ProviderError(
            f"onnxruntime {ort.__version__} has no {', '.join(absent)}; it has "
            f"{', '.join(present)}; others come in other onnxruntime packages, or as plug-ins "
            "(register_provider)"
        )
    options = _options(ort, threads)
    if {"CUDAExecutionProvider", "TensorrtExecutionProvider"}.intersection(names) and hasattr(
        ort, "preload_dlls"
    ):
        with redirect_stdout(sys.stderr):  # where it prints what it does not find
            ort.preload_dlls()  # of the nvidia packages, which no loader finds by itself
    built_in = ort.get_available_providers()
    if all(name in built_in for name in names):
        session = _create(ort, path, options, wanted, ", ".join(names))
    else:
        devices = _devices(ort)
        for name, settings in wanted:
            if name == CPU:
                continue  # the last resort of every session
            if name in built_in:
                options.add_provider(name, settings)
            else:
                options.add_provider_for_devices([_best_device(devices[name])], settings)
        session = _create(ort, path, options, None, ", ".join(names))
    report = _report(ort, session)
    if missing := [name for name in names if name not in report.providers]:
        raise ProviderError(
            f"{', '.join(missing)} did not come up: the session runs with "
            f"{', '.join(report.providers)}; {_why_not(ort, missing[0])}"
        )
    others = [name for name in names if name != CPU]
    if others and report.nodes is not None and not any(map(report.nodes.get, others)):
        raise ProviderError(
            f"{', '.join(others)} came up, but cannot run this model: {report}; name {CPU} if "
            "that is what you want"
        )
    return session, report


def _checked(providers: Sequence[Provider]) -> list[tuple[str, dict[str, str]]]:
    """The names and their options, each in a pair."""
    if not isinstance(providers, Sequence):
        raise TypeError(f"providers is {providers!r}, expected a list of names")
    wanted: list[tuple[str, dict[str, str]]] = []
    for entry in providers:
        pair = (entry, {}) if isinstance(entry, str) else entry
        is_pair = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Mapping)
        if not is_pair or not isinstance(pair[0], str):
            raise TypeError(
                f"providers holds {entry!r}, expected a name or a pair (name, {{option: value}})"
            )
        wanted.append((pair[0], {str(key): str(value) for key, value in pair[1].items()}))
    if not wanted:
        raise ValueError(f"no provider named; this onnxruntime has {present_providers()}")
    for name, options in wanted:
        if options and _full_name(name, [CPU]) == CPU:
            raise ValueError(f"{CPU} takes no options, got {options}")
    return wanted


def _full_name(name: str, known: Sequence[str]) -> str:
    """A name without "ExecutionProvider", in any case, in full; as it is if it is not known."""
    short = name.lower().removesuffix("executionprovider")
    return next((k for k in known if k.lower().removesuffix("executionprovider") == short), name)


def _onnxruntime() -> Any:
    # Here and not at the top: half a second that `import bitgaze` and a search by key do not need.
    # Before the import: since 1.29 it starts, on every system, an uploader with a device id in the
    # user's cache folder and a thread that keeps a forked child from ending.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort

        ort.disable_telemetry_events()  # where another had imported it before
    except (ImportError, AttributeError) as error:  # what another package left is a folder at least
        raise ProviderError(
            f"onnxruntime cannot be used ({error}); `bitgaze doctor` says why and what to do"
        ) from error
    return ort


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Decoding threads share the cores with the session: a thread that spins takes theirs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _create(
    ort: Any,
    path: Path,
    options: Any,
    providers: list[tuple[str, dict[str, str]]] | None,
    asked: str,
) -> Any:
    def create(options: Any, providers: list[tuple[str, dict[str, str]]] | None) -> Any:
        # Without fallback: onnxruntime would print a banner to stdout and take the CPU.
        session = ort.InferenceSession(
            os.fspath(path), options, providers=providers, enable_fallback=0
        )
        if session.get_providers() != [CPU]:
            # Some only fail when they run: a driver too old, a kernel that is not there.
            node = session.get_inputs()[0]
            shape = [size if isinstance(size, int) else 1 for size in node.shape]
            session.run(None, {node.name: np.zeros(shape, np.uint8)})
        return session

    try:
        return create(options, providers)
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        if providers != [(CPU, {})]:
            try:
                create(_options(ort, options.intra_op_num_threads), [(CPU, {})])
            except Exception:  # then it is the model's fault, see below
                pass
            else:
                raise ProviderError(f"{asked} did not come up: {_line(error)}") from error
        raise ModelError(f"{path}: onnxruntime cannot load the model: {error}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _report(ort: Any, session: Any) -> ProviderReport:
    providers = tuple(session.get_providers())
    if not hasattr(session, "get_provider_graph_assignment_info"):  # onnxruntime before 1.24
        return ProviderReport(providers, None, onnxruntime=ort.__version__)
    nodes: Counter[str] = Counter()
    for subgraph in session.get_provider_graph_assignment_info():
        nodes[subgraph.ep_name] += len(subgraph.get_nodes())
    return ProviderReport(providers, dict(nodes), onnxruntime=ort.__version__)


def _devices(ort: Any) -> dict[str, list[Any]]:
    """Provider to the devices that it offers to run on; none where onnxruntime is too old."""
    devices: dict[str, list[Any]] = {}
    for device in ort.get_ep_devices() if hasattr(ort, "get_ep_devices") else ():
        devices.setdefault(device.ep_name, []).append(device)
    return devices


def _best_device(devices: list[Any]) -> Any:
    """The first that is not the CPU; several at once are more than most providers take."""
    return next((device for device in devices if device.device.type.name != "CPU"), devices[0])


def _why_not(ort: Any, name: str) -> str:
    """What the loader says of a provider's library: onnxruntime has only logged it."""
    stem = f"onnxruntime_providers_{name.removesuffix('ExecutionProvider').lower()}"
    library = (
        Path(ort.__file__).parent
        / "capi"
        / (f"{stem}.dll" if sys.platform == "win32" else f"lib{stem}.so")
    )
    if library.exists():
        try:
            ctypes.CDLL(os.fspath(library))
        except OSError as error:
            return f"its library does not load: {error}"
    return "its driver or its device may be missing"


def _outside() -> int:
    """The stack level, for a warning, of the first caller that is not bitgaze."""
    here = os.fspath(Path(__file__).parent.parent)
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        level, frame = level + 1, frame.f_back
    return level
