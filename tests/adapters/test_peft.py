"""PEFT folders: what is read from them, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from adapters.modules import AdapterError, UnsupportedAdapter
from adapters.peft import Adapter, read_peft
from backends.errors import ModelError
from tests.adapters.making import (
    RANK,
    SHAPES,
    Fields,
    Tensors,
    as_dtype,
    sound_fields,
    sound_tensors,
    stored,
    write_adapter,
)

Change = Callable[[Tensors, Fields], None]
Q_A, Q_B = stored("self_attn.q_proj", "A"), stored("self_attn.q_proj", "B")
ROOT = "base_model.model.model.layers.0."


def read(folder: Path, *, max_rank: int = 64) -> Adapter:
    return read_peft(folder, shapes=SHAPES, max_rank=max_rank)


def test_every_linear_under_its_canonical_name(tmp_path: Path) -> None:
    """A and B as stored, for all seven linears of each layer."""
    tensors = sound_tensors()

    weights = read(write_adapter(tmp_path, tensors=tensors)).weights

    assert weights.rank == RANK
    assert weights.scale == 8 / RANK
    assert weights.matrices.keys() == SHAPES.keys()
    a, b = weights.matrices["layers.1.down"]
    np.testing.assert_array_equal(a, tensors[stored("mlp.down_proj", "A", layer=1)])
    np.testing.assert_array_equal(b, tensors[stored("mlp.down_proj", "B", layer=1)])


@pytest.mark.parametrize(("rslora", "scale"), [(False, 3.0), (None, 3.0), (True, 6.0)])
def test_scale(tmp_path: Path, rslora: bool | None, scale: float) -> None:
    """alpha / r, and alpha / sqrt(r) with rsLoRA."""
    folder = write_adapter(tmp_path, fields=sound_fields() | {"lora_alpha": 12, "use_rslora": rslora})

    assert read(folder).weights.scale == scale == 12 / (math.sqrt(RANK) if rslora else RANK)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_element_types(tmp_path: Path, dtype: str) -> None:
    """All become float32 without a further loss."""
    tensors = as_dtype(sound_tensors(), dtype)

    a, b = read(write_adapter(tmp_path, tensors=tensors)).weights.matrices["layers.0.q"]

    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a, tensors[Q_A].astype(np.float32))
    np.testing.assert_array_equal(b, tensors[Q_B].astype(np.float32))


def test_fused_modules_are_cut(tmp_path: Path) -> None:
    """q, k and v share A, and each has its rows of B, in this order; so do gate and up."""
    tensors = sound_tensors({"self_attn.qkv_proj": (32, 12), "mlp.gate_up_proj": (40, 12)})
    qkv, gate_up = tensors[stored("self_attn.qkv_proj", "B")], tensors[stored("mlp.gate_up_proj", "B")]

    matrices = read(write_adapter(tmp_path, tensors=tensors)).weights.matrices

    rows = {"q": qkv[:16], "k": qkv[16:24], "v": qkv[24:], "gate": gate_up[:20], "up": gate_up[20:]}
    assert {name for name in matrices if name.startswith("layers.0.")} == {f"layers.0.{name}" for name in rows}
    for name, expected in rows.items():
        np.testing.assert_array_equal(matrices[f"layers.0.{name}"][1], expected)
    np.testing.assert_array_equal(matrices["layers.0.v"][0], tensors[stored("self_attn.qkv_proj", "A")])


def test_files_may_go(tmp_path: Path) -> None:
    """Nothing of what was read lies in the file any more."""
    folder = write_adapter(tmp_path)
    weights = read(folder).weights
    before = weights.matrices["layers.0.q"][0].copy()

    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.write(b"\xff" * file.seek(0, 2))

    np.testing.assert_array_equal(weights.matrices["layers.0.q"][0], before)


def test_digest_is_of_the_content(tmp_path: Path) -> None:
    """The same fields and tensors anywhere have the same one; another value, name or alpha has another."""

    def scaled(tensors: Tensors, fields: Fields) -> None:
        tensors[Q_A][0, 0] += 1

    def renamed(tensors: Tensors, fields: Fields) -> None:
        tensors[stored("self_attn.k_proj", "A")], tensors[stored("self_attn.v_proj", "A")] = (
            tensors[stored("self_attn.v_proj", "A")],
            tensors[stored("self_attn.k_proj", "A")],
        )

    def other_alpha(tensors: Tensors, fields: Fields) -> None:
        fields["lora_alpha"] = 9

    first = read(write_adapter(tmp_path / "first")).digest
    again = write_adapter(tmp_path / "again", fields=dict(reversed(sound_fields().items())))
    changes: tuple[Change, ...] = (scaled, renamed, other_alpha)
    others = [read(write_adapter(tmp_path / change.__name__, change=change)).digest for change in changes]

    assert read(again).digest == first
    assert len({first, *others}) == 4


def without(name: str) -> Change:
    return lambda tensors, fields: [tensors.pop(name)].clear()


def tensor(name: str, *shape: int, value: float = 0.0) -> Change:
    return lambda tensors, fields: tensors.update({name: np.full(shape, value, np.float32)})


def field(**changed: object) -> Change:
    return lambda tensors, fields: fields.update(changed)


def no_field(name: str) -> Change:
    return lambda tensors, fields: [fields.pop(name)].clear()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(Q_B), r"lora_B.weight' is missing, but its other half"),
        (without(Q_A), r"lora_A.weight' is missing, but its other half"),
        (lambda tensors, fields: tensors.clear(), "holds no tensors"),
        (tensor(Q_A, RANK, 13), r"q_proj.lora_A.weight' has shape \[4, 13\]; .* \[4, 12\]: it was trained for another"),
        (tensor(Q_B, 17, RANK), r"has shape \[17, 4\]; .* \[16, 4\]"),
        (tensor(Q_A, RANK + 1, 12), r"has shape \[5, 12\]; .* \[4, 12\]"),
        (tensor(Q_A, 48), r"has shape \[48\]"),
        (tensor(Q_A, RANK, 12, value=math.nan), "not finite"),
        (tensor(Q_B, 16, RANK, value=math.inf), "not finite"),
        (tensor(ROOT + "mlp.c_fc.lora_A.weight", RANK, 12), "adapts mlp.c_fc; what can be adapted is q_proj, k_proj"),
        (
            tensor(stored("self_attn.q_proj", "A", layer=2), RANK, 12),
            r"layers\.2\.self_attn\.q_proj\.lora_B\.weight' is missing",
        ),
        (tensor(ROOT.replace("0", "00") + "mlp.up_proj.lora_A.weight", RANK, 12), "none of LoRA within a layer"),
        (tensor("base_model.model.lm_head.lora_A.weight", RANK, 12), "none of LoRA within a layer"),
        (tensor("base_model.model.model.embed_tokens.lora_embedding_A", RANK, 300), "embeddings are not adapted"),
        (tensor(ROOT + "self_attn.q_proj.lora_magnitude_vector", 16), "DoRA is not served"),
        (tensor(ROOT + "self_attn.q_proj.lora_B.bias", 16), "biases are not adapted"),
        (tensor("base_model.model.lm_head.modules_to_save.weight", 300, 12), "whole modules are not replaced"),
        (tensor("stray", 1), "'stray' would be left out"),
        (field(peft_type="IA3"), "peft_type is 'IA3'; only LORA"),
        (no_field("peft_type"), "peft_type is None"),
        (no_field("r"), r"missing required field `r`"),
        (no_field("lora_alpha"), r"missing required field `lora_alpha`"),
        (field(r="8"), r"\$.r"),
        (field(r=True), r"\$.r"),
        (field(r=0), "rank r is 0; this engine takes 1 to 64"),
        (field(r=65), "rank r is 65; this engine takes 1 to 64: retrain"),
        (field(lora_alpha=0), "lora_alpha 0 gives the scale 0; it must be positive"),
        (field(lora_alpha=-8), "it must be positive"),
        (field(lora_alpha=1e300), "and finite"),
        (field(lora_alpha=1e-60), "it must be positive"),
        (field(use_dora=True), "use_dora is set, and DoRA"),
        (field(bias="all"), "bias is 'all'"),
        (field(lora_bias=True), "lora_bias is set"),
        (field(modules_to_save=["lm_head"]), "modules_to_save is set"),
        (field(rank_pattern={"q_proj": 2}), "rank_pattern is set"),
        (field(alpha_pattern={"q_proj": 2}), "alpha_pattern is set"),
        (field(fan_in_fan_out=True), "fan_in_fan_out is set"),
        (field(init_lora_weights="pissa"), "init_lora_weights is 'pissa', which changes the base"),
        (field(use_something_new=True), "use_something_new is set, and nothing here knows"),
    ],
)
def test_refused(tmp_path: Path, change: Change, message: str) -> None:
    """Folders that would give another adapter than was trained are refused, with the file and what is wrong there."""
    folder = write_adapter(tmp_path, change=change)

    with pytest.raises(AdapterError, match=message) as refusal:
        read(folder)

    assert str(refusal.value).startswith(str(folder))
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        field(bias="none", use_dora=False, modules_to_save=None, rank_pattern={}, alpha_pattern={}, loftq_config={}),
        field(init_lora_weights=True),
        field(init_lora_weights="gaussian"),
        field(lora_dropout=0.1, target_modules="all-linear", base_model_name_or_path="m", peft_version="0.21"),
    ],
)
def test_what_changes_nothing_is_taken(tmp_path: Path, change: Change) -> None:
    """Fields that are off or speak of training."""
    assert read(write_adapter(tmp_path, change=change)).weights.rank == RANK


def test_one_linear_twice(tmp_path: Path) -> None:
    """Fused and alone would add up, or one of them be lost."""
    tensors = sound_tensors({"self_attn.q_proj": (16, 12), "self_attn.qkv_proj": (32, 12)})

    with pytest.raises(AdapterError, match=r"layers\.0\.q is adapted twice"):
        read(write_adapter(tmp_path, tensors=tensors))


def test_a_base_without_the_linear(tmp_path: Path) -> None:
    """A mixture has no single MLP."""
    shapes = {name: shape for name, shape in SHAPES.items() if not name.endswith(("gate", "up", "down"))}

    with pytest.raises(AdapterError, match=r"adapts layers\.0\.down, which this base or its engine has no place for"):
        read_peft(write_adapter(tmp_path), shapes=shapes, max_rank=64)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    """Pickles are never opened, because they are programs."""
    write_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")

    with pytest.raises(AdapterError, match=r"adapter_model\.bin: pickled weights can run code"):
        read(tmp_path)


def test_missing_files(tmp_path: Path) -> None:
    """Each is named, and a model is told from an adapter."""
    folder = write_adapter(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="no such directory"):
        read(tmp_path / "absent")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors is missing"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(AdapterError, match=r"adapter_config\.json is missing; expected"):
        read(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(AdapterError, match="this is a model, not an adapter"):
        read(folder)


def test_links_out_of_the_folder(tmp_path: Path) -> None:
    """Links out of the folder are not read, except for the blobs next to a hub's snapshots."""
    secret = tmp_path / "secret.json"
    secret.write_text(json.dumps(sound_fields()))
    folder = write_adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to(secret)
    snapshot = write_adapter(tmp_path / "hub" / "snapshots" / "1")
    (tmp_path / "hub" / "blobs").mkdir()
    (snapshot / "adapter_config.json").rename(tmp_path / "hub" / "blobs" / "2")
    (snapshot / "adapter_config.json").symlink_to(Path("../../blobs/2"))

    with pytest.raises(AdapterError, match="leads out of the folder"):
        read(folder)
    assert read(snapshot).weights.rank == RANK


def test_damage_is_of_the_model_kind(tmp_path: Path) -> None:
    """Start-up tells it like that of a model."""
    folder = write_adapter(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"nonsense")

    with pytest.raises(ModelError, match=r"adapter_model\.safetensors"):
        read(folder)
    assert issubclass(UnsupportedAdapter, ModelError)
