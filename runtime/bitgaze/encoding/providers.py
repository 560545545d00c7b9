"""Which hardware runs a model: onnxruntime sessions on the requested execution providers.

The only module that imports onnxruntime. It reports which providers the session itself says it
uses. What the model computes is up to encoder.py.
"""

import ctypes
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bitgaze.errors import ModelError, ProviderError, ProviderWarning

Provider: TypeAlias = str | tuple[str, Mapping[str, str]]
Providers: TypeAlias = str | Sequence[Provider]

CPU = "CPUExecutionProvider"
# The order in which "auto" tries providers. It leaves out Azure, which sends images over a network,
# and providers that are no faster than the CPU provider on the same CPU.
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
# Values of `providers` other than a list.
WORDS = ("auto", *POLICIES)


@dataclass(frozen=True)
class ProviderReport:
    """What runs a model, as reported by the session itself.

    Attributes:
        providers: of the session, in order of preference. The CPU is always the last.
        nodes: provider to the number of graph nodes that it runs; None if this onnxruntime does not
            report it.
        passed_over: with "auto", each provider that is present but was not used, with the reason.
        onnxruntime: version of onnxruntime.
    """

    providers: tuple[str, ...]
    nodes: dict[str, int] | None
    passed_over: dict[str, str] = field(default_factory=dict)
    onnxruntime: str = ""

    def __str__(self) -> str:
        if self.nodes is None:
            return (
                f"{', '.join(self.providers)} (onnxruntime {self.onnxruntime} does not report "
                "how many nodes each runs)"
            )
        total = sum(self.nodes.values())
        return ", ".join(f"{name} runs {n} of {total} nodes" for name, n in self.nodes.items())


def present_providers() -> list[str]:
    """Providers that this onnxruntime has, built in or registered, in its order.

    A present provider may still not come up: its libraries or its device may be missing.
    """
    ort = _onnxruntime()
    return list(dict.fromkeys([*ort.get_available_providers(), *_devices(ort)]))


def register_provider(name: str, library: str | os.PathLike[str]) -> list[str]:
    """Register a plugin library with onnxruntime, which adds its providers to this process.

    Such libraries come in separate packages that extend the plain onnxruntime and report their
    path, for example `onnxruntime_ep_openvino.get_library_path()`. Every process must register the
    library before it creates or unpickles an encoder that uses it.

    Args:
        name: for onnxruntime to identify the library; must not be taken yet.
        library: path of the library.

    Returns:
        The providers that the library added, for `Encoder(providers=...)`; empty if it supports no
        device of this machine.

    Raises:
        ProviderError: the library does not load, its name is taken, onnxruntime is too old, or it
            cannot be imported.
    """
    ort = _onnxruntime()
    if not hasattr(ort, "register_execution_provider_library"):
        raise ProviderError(
            f"onnxruntime {ort.__version__} does not support plugin libraries; install a newer one"
        )
    before = {name: len(devices) for name, devices in _devices(ort).items()}
    try:
        ort.register_execution_provider_library(name, os.fspath(library))
    except Exception as error:  # onnxruntime's own classes share no base but Exception
        raise ProviderError(
            f"{name}: onnxruntime cannot register the library: {_one_line(error)}"
        ) from error
    return [name for name, now in _devices(ort).items() if len(now) > before.get(name, 0)]


def open_session(path: Path, providers: Providers, threads: int) -> tuple[Any, ProviderReport]:
    """Open an onnxruntime session for a model file, and report what runs it.

    Args:
        path: of the model file.
        providers: as for `bitgaze.Encoder`.
        threads: number of threads of the session, at least 1.

    Raises:
        ModelError: onnxruntime cannot load the model.
        ProviderError: a named provider is absent, did not come up, or runs no part of the model; or
            onnxruntime itself is broken.
        TypeError: `providers` is neither a string nor a list of names.
        ValueError: `providers` is an unknown string or an empty list, or has options that would be
            ignored.
    """
    if providers == "auto":
        return _open_auto(path, threads)
    if isinstance(providers, str):
        return _open_by_policy(path, providers, threads)
    return _open_named(path, _checked(providers), threads)


def _open_auto(path: Path, threads: int) -> tuple[Any, ProviderReport]:
    present = present_providers()
    passed_over: dict[str, str] = {}
    for name in PREFERENCE:
        if name not in present or name == CPU:
            continue
        try:
            session, report = _open_named(path, [(name, {})], threads)
        except ProviderError as error:
            passed_over[name] = str(error)
            message = f"{name} is present but not used: {error}"
            warnings.warn(message, ProviderWarning, stacklevel=_stacklevel())
        else:
            break
    else:
        session, report = _open_named(path, [(CPU, {})], threads)
    return session, replace(report, passed_over=passed_over)


def _open_by_policy(path: Path, policy: str, threads: int) -> tuple[Any, ProviderReport]:
    if policy not in POLICIES:
        raise ValueError(
            f"providers is {policy!r}, expected a list of names, or one of "
            f"{', '.join(map(repr, WORDS))}"
        )
    ort = _onnxruntime()
    options = _options(ort, threads)
    if not hasattr(options, "set_provider_selection_policy"):
        raise ProviderError(
            f"onnxruntime {ort.__version__} does not support {policy}; install a newer one, or "
            "name the providers"
        )
    policies = ort.OrtExecutionProviderDevicePolicy
    options.set_provider_selection_policy(getattr(policies, policy.upper()))
    session = _create(ort, path, options, None, policy)
    report = _report(ort, session)
    if policy in ("prefer_gpu", "prefer_npu") and report.providers == (CPU,):
        message = f"{policy}: onnxruntime finds no such device, so the CPU runs the model"
        warnings.warn(message, ProviderWarning, stacklevel=_stacklevel())
    return session, report


def _open_named(
    path: Path, requested: list[tuple[str, dict[str, str]]], threads: int
) -> tuple[Any, ProviderReport]:
    """Open a session on exactly these providers, or raise an error that says why not."""
    ort = _onnxruntime()
    present = present_providers()
    requested = [(_full_name(name, present), settings) for name, settings in requested]
    names = [name for name, _ in requested]
    if absent := [name for name in names if name not in present]:
        raise ProviderError(
            f"onnxruntime {ort.__version__} has no {', '.join(absent)}; it has "
            f"{', '.join(present)}; other onnxruntime packages or plugins (register_provider) "
            "bring others"
        )
    options = _options(ort, threads)
    if {"CUDAExecutionProvider", "TensorrtExecutionProvider"}.intersection(names) and hasattr(
        ort, "preload_dlls"
    ):
        with redirect_stdout(sys.stderr):  # it prints what it does not find
            ort.preload_dlls()  # from the nvidia packages, where no loader looks
    built_in = ort.get_available_providers()
    if all(name in built_in for name in names):
        session = _create(ort, path, options, requested, ", ".join(names))
    else:
        devices = _devices(ort)
        for name, settings in requested:
            if name == CPU:
                continue  # every session ends with it anyway
            if name in built_in:
                options.add_provider(name, settings)
            else:
                options.add_provider_for_devices([_best_device(devices[name])], settings)
        session = _create(ort, path, options, None, ", ".join(names))
    report = _report(ort, session)
    if missing := [name for name in names if name not in report.providers]:
        raise ProviderError(
            f"{', '.join(missing)} did not come up: the session runs with "
            f"{', '.join(report.providers)}; {_likely_cause(ort, missing[0])}"
        )
    others = [name for name in names if name != CPU]
    if others and report.nodes is not None and not any(map(report.nodes.get, others)):
        raise ProviderError(
            f"{', '.join(others)} came up, but cannot run this model: {report}; to run it "
            f"on the CPU, name only {CPU}"
        )
    return session, report


def _checked(providers: Sequence[Provider]) -> list[tuple[str, dict[str, str]]]:
    """Check the `providers` argument: pairs of name and options, both as text."""
    if not isinstance(providers, Sequence):
        raise TypeError(f"providers is {providers!r}, expected a list of names")
    requested: list[tuple[str, dict[str, str]]] = []
    for entry in providers:
        pair = (entry, {}) if isinstance(entry, str) else entry
        is_pair = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[1], Mapping)
        if not is_pair or not isinstance(pair[0], str):
            raise TypeError(
                f"providers holds {entry!r}, expected a name or a pair (name, {{option: value}})"
            )
        requested.append((pair[0], {str(key): str(value) for key, value in pair[1].items()}))
    if not requested:
        raise ValueError(f"no provider named; this onnxruntime has {present_providers()}")
    for name, options in requested:
        if options and _full_name(name, [CPU]) == CPU:
            raise ValueError(f"{CPU} takes no options, got {options}")
    return requested


def _full_name(name: str, known: Sequence[str]) -> str:
    """The known provider that a short name in any case stands for ("cuda"), or else the name."""
    short = name.lower().removesuffix("executionprovider")
    return next((k for k in known if k.lower().removesuffix("executionprovider") == short), name)


def _onnxruntime() -> Any:
    # Imported here because it takes half a second, which `import bitgaze` and a search by key need
    # not spend. The variable must be set before: since 1.29 onnxruntime starts an uploader on every
    # system, with a device id in the user's cache folder and a thread that hangs forked children.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime as ort

        ort.disable_telemetry_events()  # in case it was imported before
    # AttributeError: an uninstalled package may leave a folder that imports as an empty module.
    except (ImportError, AttributeError) as error:
        raise ProviderError(
            f"onnxruntime cannot be used ({error}); `bitgaze doctor` says why and what to do"
        ) from error
    return ort


def _options(ort: Any, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Decoding threads share the cores with the session, and a spinning thread would occupy one.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def _create(
    ort: Any,
    path: Path,
    options: Any,
    providers: list[tuple[str, dict[str, str]]] | None,
    requested: str,
) -> Any:
    def create(options: Any, providers: list[tuple[str, dict[str, str]]] | None) -> Any:
        # With its fallback, onnxruntime would print a banner to stdout and use the CPU.
        session = ort.InferenceSession(
            os.fspath(path), options, providers=providers, enable_fallback=0
        )
        if session.get_providers() != [CPU]:
            # Some providers fail only when they run: an old driver, a missing kernel.
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
            except Exception:  # the model is at fault, see below
                pass
            else:
                raise ProviderError(f"{requested} did not come up: {_one_line(error)}") from error
        raise ModelError(f"{path}: onnxruntime cannot load the model: {error}") from error


def _one_line(error: Exception) -> str:
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
    """Provider to the devices that it can run on; empty if onnxruntime is too old to list them."""
    devices: dict[str, list[Any]] = {}
    for device in ort.get_ep_devices() if hasattr(ort, "get_ep_devices") else ():
        devices.setdefault(device.ep_name, []).append(device)
    return devices


def _best_device(devices: list[Any]) -> Any:
    """The first device that is not the CPU; most providers accept only one."""
    return next((device for device in devices if device.device.type.name != "CPU"), devices[0])


def _likely_cause(ort: Any, name: str) -> str:
    """Why a provider did not come up: the loader's error, which onnxruntime only logs."""
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


def _stacklevel() -> int:
    """The `stacklevel` that makes a warning point at the first caller outside bitgaze."""
    here = os.fspath(Path(__file__).parent.parent)
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(here):
        level, frame = level + 1, frame.f_back
    return level
