"""Adapters of an engine: read at load, reported to the gateway, rejected where the runner cannot apply them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save_file

from adapters.modules import AdapterError
from adapters.ref import AdapterRef
from backends.api import AdapterWeights, LoadableModel, ModelInfo, Runner, RunnerCapabilities
from backends.errors import ModelError, RequestError, UnsupportedModel
from backends.loading import open_model
from backends.models.shapes import lora_shapes
from backends.testing.fake import FakeRunner
from gateway.engine.messages import Load
from gateway.engine.worker_side.inline import start_inline
from gateway.engine.worker_side.loading import LoadedEngine, load_engine, read_adapters
from tests.gateway.engine.conftest import SIZES
from tests.gateway.engine.making import collect, end_of, inline, make_add, make_load, make_request
from tests.gateway.engine.making import running_backend as running

RANK = 2


class AdaptingRunner(FakeRunner):
    """Takes adapters into two slots, and remembers where they are and which rows asked for them."""

    def __init__(self) -> None:
        super().__init__()
        self.placed: dict[int, AdapterWeights] = {}

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(
            super().capabilities(), lora_slots=2, lora_max_rank=4, lora_targets=("q", "v"), lora_formats=("F32",)
        )

    def load(self, model: LoadableModel, progress: Callable[[float], None]) -> ModelInfo:
        info = super().load(model, progress)
        return msgspec.structs.replace(info, lora_shapes=lora_shapes(model.spec, ("q", "v")))

    def put_adapter(self, slot: int, weights: AdapterWeights) -> None:
        self.placed[slot] = weights


def create(name: str, *, threads: int, exact: bool, device: str) -> Runner:
    return AdaptingRunner()


def write_adapter(folder: Path, *, rank: int = RANK) -> AdapterRef:
    """Write an adapter for q of the one layer of the model."""
    hidden, name = SIZES.hidden_size, "base_model.model.model.layers.0.self_attn.q_proj"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(
        msgspec.json.encode({"peft_type": "LORA", "r": rank, "lora_alpha": rank})
    )
    tensors = {
        f"{name}.lora_A.weight": np.ones((rank, hidden), np.float32),
        f"{name}.lora_B.weight": np.ones((hidden, rank), np.float32),
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return AdapterRef(name=folder.name, base="fake", path=str(folder))


def with_adapters(load: Load, *files: AdapterRef) -> Load:
    return msgspec.structs.replace(load, adapters=files)


def engine_of(load: Load, runner: Runner) -> LoadedEngine:
    def choose(name: str, *, threads: int, exact: bool, device: str) -> Runner:
        return runner

    return load_engine(load, create_runner=choose, open_model=open_model, progress=lambda _: None)


def test_read_at_load(model_path: Path, tmp_path: Path) -> None:
    """Their names are told, and a line each by which the operator knows the content again."""
    files = [write_adapter(tmp_path / name) for name in ("law", "tax")]
    runner = AdaptingRunner()

    engine = engine_of(with_adapters(make_load(model_path), *files), runner)

    assert engine.ready.adapters == ("law", "tax")
    notes = [note for note in engine.ready.notes if note.startswith("adapter ")]
    assert notes[0].startswith("adapter law: rank 2, 1 linears, 0.0 MB, sha256 ")
    assert notes[0].partition("sha256")[2] == notes[1].partition("sha256")[2]


def test_a_sequence_brings_its_own(model_path: Path, tmp_path: Path) -> None:
    """A sequence's adapter is put into a slot of the runner when it begins; the engine itself refuses an unknown one,
    too.
    """
    runner = AdaptingRunner()
    engine = engine_of(with_adapters(make_load(model_path), write_adapter(tmp_path / "law")), runner)

    assert engine.loop.add(msgspec.structs.replace(make_add(), id=1, adapter="law")) is None
    refusal = engine.loop.add(msgspec.structs.replace(make_add(), id=2, adapter="tax"))
    engine.loop.step()

    assert [weights.scale for weights in runner.placed.values()] == [1.0]
    assert refusal is not None
    assert "tax" in str(refusal.error)


def test_a_runner_without_slots(model_path: Path, tmp_path: Path) -> None:
    """The engine does not start with an adapter that no runner would apply."""
    load = with_adapters(make_load(model_path), write_adapter(tmp_path / "law"))

    with pytest.raises(UnsupportedModel, match=r"runner fake on none does not support LoRA adapters; .* backend onnx"):
        engine_of(load, FakeRunner())


def test_a_base_in_another_format(model_path: Path, tmp_path: Path) -> None:
    """Only formats that the runner declares; without adapters it may be any."""
    model = open_model(model_path)
    info = AdaptingRunner().load(model, lambda _: None)
    capabilities = msgspec.structs.replace(AdaptingRunner().capabilities(), lora_formats=("Q8_0",))

    with pytest.raises(UnsupportedModel, match="on weights in F32; serve the base in Q8_0"):
        read_adapters([write_adapter(tmp_path / "law")], "fake", capabilities, model, info)
    assert read_adapters([], "fake", capabilities, model, info) == {}


def test_an_unsound_one_ends_the_start(model_path: Path, tmp_path: Path) -> None:
    """The whole engine, since who asks for it must never get the base."""
    load = with_adapters(
        make_load(model_path), write_adapter(tmp_path / "law"), write_adapter(tmp_path / "big", rank=5)
    )

    with pytest.raises(AdapterError, match=r"big/adapter_config\.json: rank r is 5; this engine takes 1 to 4"):
        engine_of(load, AdaptingRunner())


async def test_over_the_socket(model_path: Path, tmp_path: Path) -> None:
    """The backend says that it has adapters, serves those, and refuses others."""
    load: Load = msgspec.structs.replace(make_load(model_path), adapters=(write_adapter(tmp_path / "law"),))

    async with running(load, start=lambda name, theirs: start_inline(name, theirs, create=create)) as backend:
        assert backend.capabilities().adapters
        served = await collect(backend, make_request(adapter="law"))
        with pytest.raises(RequestError, match="no adapter 'tax'") as refusal:
            await anext(backend.generate(make_request(adapter="tax")))

    assert end_of(served).usage.completion_tokens == 8
    assert refusal.value.param == "model"


async def test_without_any(model_path: Path) -> None:
    """An engine that was given none has none."""
    async with running(make_load(model_path), start=inline()) as backend:
        assert not backend.capabilities().adapters


async def test_the_reason_arrives(model_path: Path, tmp_path: Path) -> None:
    """The error that ends the engine is the one that the operator reads."""
    load = msgspec.structs.replace(
        make_load(model_path), adapters=(AdapterRef(name="law", base="fake", path=str(tmp_path / "gone")),)
    )

    with pytest.raises(ModelError, match="gone: no such directory"):
        async with running(load, start=lambda name, theirs: start_inline(name, theirs, create=create)):
            pass
