"""Providers of the real onnxruntime, and of a fake one in place of missing hardware."""

import re
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from bitgaze import Encoder, ModelError, ProviderError, ProviderWarning, register_provider
from bitgaze.encoding.contract import DEFAULT_MODEL
from bitgaze.encoding.providers import CPU, POLICIES, PREFERENCE, ProviderReport, open_session
from conftest import smooth_image

CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
NPU = "QNNExecutionProvider"


@pytest.fixture
def hardware(monkeypatch):
    """A function that makes onnxruntime claim to have other providers that behave as given.

    A provider is "fine", "silent" (the session comes up without it), "idle" (it runs no node), or
    raises when a session is created ("fails") or first run ("dies"). The function returns a list
    that collects the `providers` argument of every session.
    """
    behaviour = {}
    real = onnxruntime.InferenceSession
    opened = []

    class Session:
        def __init__(self, path, options, providers=None, **kwargs):
            assert kwargs == {"enable_fallback": 0}
            names = [name for name, _ in providers or []]
            opened.append(providers)
            for name in names:
                if behaviour.get(name) == "fails":
                    raise RuntimeError(f"{name}: no such device")
            self._real = real(path, options, providers=[CPU])
            up = [name for name in names if behaviour.get(name) != "silent" and name != CPU]
            self._up = [*up, CPU]

        def get_providers(self):
            return self._up

        def run(self, names, feeds):
            if any(behaviour.get(name) == "dies" for name in self._up):
                raise RuntimeError("no kernel image is available")
            return self._real.run(names, feeds)

        def get_provider_graph_assignment_info(self):
            runs = [name for name in self._up if behaviour.get(name) != "idle"]
            for graph in self._real.get_provider_graph_assignment_info():
                yield SimpleNamespace(ep_name=runs[0], get_nodes=graph.get_nodes)

        def __getattr__(self, name):
            return getattr(self._real, name)

    def have(**providers):
        behaviour.update({f"{k}ExecutionProvider": v for k, v in providers.items()})
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*behaviour, CPU])
        return opened

    return have


def test_the_cpu_is_the_default_and_runs_every_node(encoder):
    assert encoder.providers == [CPU]
    assert encoder.report.nodes.keys() == {CPU}
    assert encoder.report.nodes[CPU] > 50
    assert encoder.report.passed_over == {}
    assert encoder.report.onnxruntime == onnxruntime.__version__
    assert re.fullmatch(r"CPUExecutionProvider runs (\d+) of \1 nodes", str(encoder.report))


@pytest.mark.parametrize("name", ["cpu", "CPU", "cpuexecutionprovider", CPU, (CPU, {})])
def test_short_names_and_pairs(name, encoder):
    own = Encoder(providers=[name], threads=1)
    assert own.providers == [CPU]
    assert np.array_equal(
        own.encode([smooth_image(1)]).hashes, encoder.encode([smooth_image(1)]).hashes
    )


def test_an_absent_provider_is_refused():
    with pytest.raises(ProviderError, match=r"has no TensorrtExecutionProvider; it has .*CPU"):
        Encoder(providers=["TensorrtExecutionProvider", CPU])


def test_a_real_provider_that_runs_nothing_is_refused():
    """Azure is in every wheel and comes up, but has no operators: the CPU must not replace it."""
    name = "AzureExecutionProvider"
    if name not in onnxruntime.get_available_providers():
        pytest.skip(f"this onnxruntime has no {name}")
    with pytest.raises(ProviderError, match=r"Azure.* came up, but cannot run this model: CPU"):
        Encoder(providers=["azure"])
    assert name not in PREFERENCE  # it would send images over a network


def test_a_named_provider_that_comes_up_runs_the_model(hardware):
    opened = hardware(CUDA="fine")
    own = Encoder(providers=[("cuda", {"device_id": 1})])
    assert opened == [[(CUDA, {"device_id": "1"})]]
    assert own.providers == [CUDA, CPU]
    assert own.report.nodes.keys() == {CUDA}
    assert len(own.encode([smooth_image(1), smooth_image(2)]).codes) == 2


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("silent", "CUDA.* did not come up: the session runs with CPU.* may be missing"),
        ("idle", "CUDA.* came up, but cannot run this model: CPU.* runs 126 of 126 nodes"),
        ("fails", "CUDA.* did not come up: CUDA.*: no such device"),
        ("dies", "CUDA.* did not come up: no kernel image is available"),
    ],
)
def test_a_named_provider_is_never_replaced(hardware, behaviour, message, capfd):
    hardware(CUDA=behaviour)
    with pytest.raises(ProviderError, match=message):
        Encoder(providers=["cuda", "cpu"])
    assert capfd.readouterr().out == ""  # onnxruntime's banner would break a JSON document


def test_a_library_that_does_not_load_is_named(hardware, monkeypatch, tmp_path):
    hardware(CUDA="silent")
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"not a library")
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(ProviderError, match="its library does not load: .*providers_cuda.so"):
        Encoder(providers=["cuda"])


def test_the_nvidia_packages_are_loaded_for_cuda_alone(hardware, monkeypatch, capsys):
    calls = []

    def preload():
        print("Failed to load libcublasLt.so")
        calls.append(1)

    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    hardware(CUDA="fine", OpenVINO="fine")
    Encoder(providers=["openvino"])
    assert calls == []
    Encoder(providers=["cuda"])
    assert calls == [1]
    out, err = capsys.readouterr()
    assert (out, err) == ("", "Failed to load libcublasLt.so\n")


def test_a_model_at_fault_is_not_blamed_on_the_provider(hardware, tmp_path):
    hardware(CUDA="fails")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(DEFAULT_MODEL.read_bytes().replace(b"\x22\x04Conv", b"\x22\x04Cnov"))
    with pytest.raises(ModelError, match="onnxruntime cannot load the model"):
        Encoder(damaged, providers=["cuda"])


def test_auto_uses_the_first_provider_that_comes_up_and_warns_of_the_others(hardware):
    hardware(QNN="fine", OpenVINO="fine", CUDA="silent", Tensorrt="fails")
    with pytest.warns(ProviderWarning) as caught:
        own = Encoder(providers="auto")
    assert own.providers == [OPENVINO, CPU]
    assert list(own.report.passed_over) == ["TensorrtExecutionProvider", CUDA]
    assert [str(warning.message).split()[0] for warning in caught] == list(own.report.passed_over)
    assert {warning.filename for warning in caught} == {__file__}  # the caller's file


def test_auto_does_not_warn_on_a_machine_with_only_a_cpu(hardware):
    hardware()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Encoder(providers="auto").providers == [CPU]


def test_auto_falls_back_to_the_cpu(hardware):
    opened = hardware(CUDA="dies", CoreML="idle")
    with pytest.warns(ProviderWarning, match="CUDA|CoreML") as caught:
        own = Encoder(providers="auto", threads=3)
    first = [*opened]
    # Several images open a second session, which does not retry the others: that may take seconds.
    own.encode([smooth_image(1), smooth_image(2)])
    assert opened == [*first, [(CPU, {})]]
    assert own.providers == [CPU]
    assert own.report.passed_over.keys() == {CUDA, "CoreMLExecutionProvider"}
    assert len(caught) == 2


def test_other_hardware_holds_one_session(hardware):
    opened = hardware(CUDA="fine")
    own = Encoder(providers=["cuda"], threads=3)
    own.encode([smooth_image(1)])
    own.encode([smooth_image(1), smooth_image(2)])
    assert opened == [[(CUDA, {})]]


def test_a_session_that_fails_while_running(hardware):
    hardware(CUDA="fine")
    own = Encoder(providers=["cuda"])
    hardware(CUDA="dies")
    with pytest.raises(ProviderError, match=r"the session on CUDA.* failed: no kernel image"):
        own.encode([smooth_image(1)])


@pytest.mark.parametrize("policy", POLICIES)
def test_device_policies(policy, encoder):
    if not hasattr(onnxruntime.SessionOptions, "set_provider_selection_policy"):
        with pytest.raises(ProviderError, match=f"does not support {policy}; install a newer one"):
            Encoder(providers=policy)
        return
    devices = {device.device.type.name for device in onnxruntime.get_ep_devices()}
    wanted = {"prefer_npu": "NPU", "prefer_gpu": "GPU"}.get(policy, "CPU")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own = Encoder(providers=policy)
    # Without the preferred device the CPU runs the model, with a warning.
    assert len(caught) == (wanted not in devices)
    assert all(warning.category is ProviderWarning for warning in caught)
    found, expected = (e.encode([smooth_image(1)]) for e in (own, encoder))
    assert (found.codes == expected.codes).all()


def test_a_plugin_library_that_does_not_load_is_refused(tmp_path):
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not support plugin libraries")
    with pytest.raises(ProviderError, match="npu: onnxruntime cannot register .*none.so"):
        register_provider("npu", tmp_path / "none.so")


def test_a_plugin_provider_runs_on_its_best_device(monkeypatch):
    """The CPU provider's own device stands in for the plugin's, so that the session is real."""
    if not hasattr(onnxruntime, "get_ep_devices"):
        pytest.skip(f"onnxruntime {onnxruntime.__version__} does not support plugin libraries")
    (cpu,) = [device for device in onnxruntime.get_ep_devices() if device.ep_name == CPU]

    def device(kind):
        return SimpleNamespace(ep_name=NPU, device=SimpleNamespace(type=SimpleNamespace(name=kind)))

    ours = [device("CPU"), device("NPU")]
    taken, known = [], [cpu]
    add = onnxruntime.SessionOptions.add_provider_for_devices

    def add_provider_for_devices(options, devices, settings):
        taken.append((devices, settings))
        add(options, [cpu], {})

    class Named(onnxruntime.InferenceSession):
        def get_providers(self):
            return [NPU, CPU]

        def get_provider_graph_assignment_info(self):
            for graph in super().get_provider_graph_assignment_info():
                yield SimpleNamespace(ep_name=NPU, get_nodes=graph.get_nodes)

    monkeypatch.setattr(
        onnxruntime.SessionOptions, "add_provider_for_devices", add_provider_for_devices
    )
    monkeypatch.setattr(onnxruntime, "get_ep_devices", lambda: known)
    monkeypatch.setattr(
        onnxruntime, "register_execution_provider_library", lambda *_: known.extend(ours)
    )
    with pytest.raises(ProviderError, match="has no npu"):
        Encoder(providers=["npu"])
    assert register_provider("mine", "libqnn.so") == [NPU]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Named)
    own = Encoder(providers=[("qnn", {"htp": "1"}), "cpu"])
    assert taken == [([ours[1]], {"htp": "1"})]
    assert own.report.nodes == {NPU: 126}
    assert len(own.encode([smooth_image(1)]).codes) == 1


def test_a_report_without_node_counts(monkeypatch):
    name = "get_provider_graph_assignment_info"
    for kind in onnxruntime.InferenceSession.__mro__:
        if name in vars(kind):
            monkeypatch.delattr(kind, name)
    report = Encoder(threads=1).report
    assert report.nodes is None
    assert str(report).endswith(
        f"(onnxruntime {report.onnxruntime} does not report how many nodes each runs)"
    )


@pytest.mark.parametrize(
    ("providers", "error", "message"),
    [
        ([], ValueError, "no provider named; this onnxruntime has .*CPU"),
        (CPU, ValueError, "expected a list of names, or one of 'auto', 'prefer_cpu'"),
        ("fastest", ValueError, "providers is 'fastest'"),
        ([(CPU, {"threads": 3})], ValueError, "takes no options, got .*threads"),
        ([("cpu", {"threads": 3})], ValueError, "takes no options"),
        (None, TypeError, "providers is None, expected a list of names"),
        ([7], TypeError, "providers holds 7, expected a name or a pair"),
        ([(CPU,)], TypeError, "expected a name or a pair"),
        ([(CPU, 3)], TypeError, "expected a name or a pair"),
        ([(3, {})], TypeError, "expected a name or a pair"),
    ],
)
def test_bad_provider_arguments_are_rejected(providers, error, message):
    with pytest.raises(error, match=message):
        Encoder(providers=providers)


def test_a_report_of_a_graph_split_between_providers():
    report = ProviderReport((CUDA, CPU), {CUDA: 100, CPU: 19})
    assert str(report) == f"{CUDA} runs 100 of 119 nodes, {CPU} runs 19 of 119 nodes"


def test_open_session_without_an_encoder(tmp_path):
    path = tmp_path / "model.onnx"
    shutil.copy(DEFAULT_MODEL, path)
    session, report = open_session(path, "auto", 1)
    assert tuple(session.get_providers()) == report.providers
