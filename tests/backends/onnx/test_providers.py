"""Choice of the device from made-up lists of providers, and what is said about those passed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from backends.api import LoadableModel
from backends.errors import BackendError, ModelError, UnsupportedModel
from backends.onnx import create_runner, describe_device
from backends.onnx.graph import Graph
from backends.onnx.provider import Provider
from backends.onnx.providers import PROVIDERS, ProviderChoice, available_providers, choose_provider, fit_version
from backends.onnx.runner import OnnxRunner
from backends.onnx.session import fallbacks_of, open_session, try_session
from backends.registry import RunnerUnavailable
from tests.backends.onnx.drive import CPU, DEVICE_ON_CPU

OF = {provider.device: provider for provider in PROVIDERS}
CUDA, WEBGPU, COREML = (OF[device].name for device in ("cuda", "webgpu", "coreml"))
BROKEN = Provider(device="cuda", name="CUDAExecutionProvider", extra="onnx-gpu")


def works(provider: Provider) -> str:
    return ""


def fails(provider: Provider) -> str:
    return "" if provider == CPU else "no adapter found"


def test_auto_takes_the_best_that_works() -> None:
    """The others stay as candidates, in case the model is too much for the first."""
    choice = choose_provider(offered=[CPU.name, WEBGPU, CUDA], failure_of=works)

    assert [provider.device for provider in choice.candidates] == ["cuda", "webgpu", "cpu"]
    assert choice.device == "cuda"
    assert choice.fallbacks == ()
    assert "of cuda, webgpu, cpu" in choice.reason


def test_auto_says_what_is_offered_and_fails() -> None:
    """The package for GPUs on a machine without one: the CPU, loudly."""
    choice = choose_provider(offered=[CUDA, CPU.name], failure_of=fails)

    assert choice.device == "cpu"
    assert choice.fallbacks == ("cuda is installed and fails: no adapter found",)


def test_auto_leaves_coreml_to_those_who_ask() -> None:
    """`auto` does not choose CoreML, which takes neither attention nor quantized weights; `coreml` does."""
    offered = [COREML, CPU.name]

    assert choose_provider(offered=offered, failure_of=works).device == "cpu"
    assert choose_provider("coreml", offered=offered, failure_of=works).device == "coreml"


@pytest.mark.parametrize(
    ("device", "extra"), [("cuda", "onnx-gpu"), ("webgpu", "onnx-webgpu"), ("coreml", "onnx"), ("dml", "onnx-directml")]
)
def test_a_device_that_is_not_installed_names_the_extra(device: str, extra: str) -> None:
    """Asked for by name, nothing else will do."""
    with pytest.raises(RunnerUnavailable, match=rf'built without {device}.*pip install "hostelry\[{extra}\]"'):
        choose_provider(device, offered=[CPU.name], failure_of=works)


def test_a_device_that_does_not_work_is_refused_with_the_cause() -> None:
    """Asked for by name, a failing device ends start-up."""
    with pytest.raises(RunnerUnavailable, match="device cuda does not work here: no adapter found"):
        choose_provider("cuda", offered=[CUDA, CPU.name], failure_of=fails)


def test_an_unknown_device_lists_the_known() -> None:
    """A typing error is told apart from a missing package."""
    with pytest.raises(RunnerUnavailable, match="no device 'gpu'; it has cuda, webgpu, dml, coreml, cpu"):
        create_runner(device="gpu")


def test_nothing_that_works_is_an_error() -> None:
    """A build of onnxruntime without any provider we know."""
    with pytest.raises(RunnerUnavailable, match="no known device"):
        choose_provider(offered=["OtherExecutionProvider"], failure_of=works)


def test_the_installed_package_is_asked_by_default() -> None:
    """The CPU is found and computes, whatever the installed package was built for."""
    assert available_providers()[-1] == "cpu"
    assert choose_provider("cpu").candidates == (CPU,)
    assert choose_provider().candidates[-1] == CPU


def test_the_probe_finds_what_is_not_there() -> None:
    """The installed package has no such provider, which onnxruntime alone would only warn of."""
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ModelError, match="fell back"):
        try_session(BROKEN)


class SharingSession:
    """Claims to be on a device that left two nodes to the CPU."""

    def __init__(self, *arguments: Any, **options: Any) -> None:  # Any: stands in for a native class
        self.options = options

    def get_providers(self) -> list[str]:
        return [CUDA, CPU.name]

    def get_provider_graph_assignment_info(self) -> list[Any]:  # Any: stands in for native classes
        node = type("Node", (), {"op_type": "TopK"})
        left = type("Part", (), {"ep_name": CPU.name, "get_nodes": lambda self: [node, node]})
        taken = type("Part", (), {"ep_name": CUDA, "get_nodes": lambda self: [node]})
        return [left(), taken()]


def test_nodes_left_to_the_cpu_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes only part of the graph is a fallback, too."""
    monkeypatch.setattr(ort, "InferenceSession", SharingSession)

    session = open_session(Graph(), OF["cuda"], threads=1)

    assert session.options["providers"] == [CUDA, CPU.name]
    assert session.options["enable_fallback"] is False
    assert fallbacks_of(session, OF["cuda"]) == ["2 operations of the graph run on the CPU instead of cuda: TopK"]


def test_a_strict_device_gets_no_cpu_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime refuses the graph rather than sharing it."""
    monkeypatch.setattr(ort, "InferenceSession", SharingSession)
    monkeypatch.setattr(SharingSession, "get_providers", lambda self: [WEBGPU])

    session = open_session(Graph(), OF["webgpu"], threads=1)

    assert session.options["providers"] == [WEBGPU]


def test_a_strict_device_refuses_what_it_cannot_run() -> None:
    """The error of onnxruntime names the cause, ours the device."""
    graph = Graph()
    graph.named("Relu", [graph.input("x", ["T"])], [graph.output("y", ["T"])])
    strict = Provider(device="webgpu", name=WEBGPU, extra="onnx-webgpu", strict=True)

    with pytest.warns(UserWarning, match=WEBGPU), pytest.raises(ModelError, match=r"on webgpu.*disabled"):
        open_session(graph, strict, threads=1)


@pytest.mark.usefixtures("operators")
def test_a_model_that_a_device_refuses_goes_to_the_next(model: LoadableModel) -> None:
    """`auto` moves on to the next device, with a warning, when one refuses the model."""
    choice = ProviderChoice(candidates=(BROKEN, CPU), reason="a test", fallbacks=("webgpu is installed and fails: x",))
    runner = OnnxRunner(choice, threads=1, exact=False)

    with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
        info = runner.load(model, lambda _: None)

    assert info.device == "cpu, 1 threads"
    assert info.fallbacks[0] == "webgpu is installed and fails: x"
    assert info.fallbacks[1].startswith("cuda refused the model: ")


@pytest.mark.usefixtures("operators")
def test_an_unsupported_model_is_refused_at_once(model: LoadableModel) -> None:
    """No other device would read the format."""
    tensors = dict(model.tensors)
    tensors["embed"] = tensors["embed"].__class__("embed", "IQ2_XXS", (512, 256), np.zeros((512, 66), np.uint8))
    runner = OnnxRunner(ProviderChoice(candidates=(DEVICE_ON_CPU, CPU), reason="a test"), threads=1, exact=False)

    with pytest.raises(UnsupportedModel, match="IQ2_XXS"):
        runner.load(LoadableModel(spec=model.spec, tensors=tensors), lambda _: None)


def test_devices_say_that_they_are_unverified(model: LoadableModel) -> None:
    """Every start on one tells the operator."""
    device = Provider(device="cuda", name=CPU.name, extra="onnx-gpu")
    runner = OnnxRunner(ProviderChoice(candidates=(device,), reason="a test"), threads=1, exact=False)

    info = runner.load(model, lambda _: None)

    assert info.device == "cuda"
    assert info.notes == ("cuda was not verified on such hardware yet",)
    assert not runner.capabilities().deterministic


def test_an_older_onnxruntime_makes_the_cpu_step_in_with_plain_attention() -> None:
    """The package for WebGPU lags behind; on a machine without an adapter, its CPU still serves, and says so."""
    choice = choose_provider(offered=[WEBGPU, CPU.name], failure_of=fails)

    fitted = fit_version(choice, (1, 27))

    assert fitted.candidates == (DEVICE_ON_CPU,)
    assert fitted.fallbacks[0] == "webgpu is installed and fails: no adapter found"
    assert "onnxruntime 1.27 has no attention for ragged steps" in fitted.fallbacks[1]
    assert "without Hostelry's kernels and without LoRA adapters" in fitted.fallbacks[1]
    assert fitted.fallbacks[1].endswith('uninstall it, then pip install "hostelry[onnx]"')
    assert fit_version(choice, (1, 32)) is choice


def test_the_device_is_told_with_what_an_older_onnxruntime_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hostelry doctor` says what `hostelry serve` would."""
    monkeypatch.setattr("onnxruntime.__version__", "1.31.1")

    assert "onnxruntime 1.31 has no attention for ragged steps" in describe_device()


def test_a_working_device_needs_no_word_about_the_cpu() -> None:
    """Only who runs on the CPU minds how fast it is."""
    fitted = fit_version(choose_provider(offered=[WEBGPU, CPU.name], failure_of=works), (1, 27))

    assert [provider.on_host for provider in fitted.candidates] == [False, False]
    assert fitted.fallbacks == ()


def test_coreml_needs_the_attention_of_the_cpu() -> None:
    """CoreML is refused where onnxruntime's CPU attention is missing, since it has none of its own."""
    with pytest.raises(RunnerUnavailable, match="coreml needs a newer onnxruntime"):
        fit_version(choose_provider("coreml", offered=[COREML], failure_of=works), (1, 31))


def test_an_onnxruntime_that_nobody_tried_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones would refuse the graph with a riddle."""
    monkeypatch.setattr("onnxruntime.__version__", "1.23.2")

    with pytest.raises(BackendError, match=r"onnxruntime 1\.23\.2 is too old: pip install --upgrade"):
        create_runner()
