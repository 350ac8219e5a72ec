"""The same model, opened from both file formats, against transformers as the reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from backends.loading import open_model
from backends.models.families.names import GGUF_NAMES, HUGGING_FACE_NAMES
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec, RopeScaling
from backends.testing.models import FamilyName, ModelSizes, make_random_model, write_gguf_of
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor, decode
from tests.backends.loading.conftest import SMALL

FAMILIES: tuple[FamilyName, ...] = ("llama", "qwen2", "qwen3")
every_family = pytest.mark.parametrize("family", FAMILIES)


def transformers_folder(directory: Path, family: FamilyName, *, tied: bool) -> tuple[Path, dict[str, Any]]:
    """A folder whose config.json and weights were written by transformers; also its state."""
    sizes = ModelSizes(**{name: getattr(SMALL, name) for name in SMALL.__struct_fields__} | {"tied_head": tied})
    folder = make_random_model(directory / family, sizes=sizes, family=family, rope_theta=50000.0)
    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config)
    generator = np.random.default_rng(0)
    for parameter in model.parameters():  # transformers starts biases at 0 and norms at 1, which would hide mix-ups
        parameter.data += parameter.data.new_tensor(generator.standard_normal(tuple(parameter.shape)) * 0.02)
    model.save_pretrained(folder)
    return folder, model.state_dict()


@every_family
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_folders_of_transformers_give_its_tensors(tmp_path: Path, family: FamilyName, tied: bool) -> None:
    """Every canonical tensor holds the values of the parameter it stands for, and the spec the configuration's."""
    folder, state = transformers_folder(tmp_path, family, tied=tied)

    model = open_model(folder)

    assert model.spec.family == family
    assert (model.spec.rope_theta, model.spec.tied_head) == (50000.0, tied)
    assert model.tensors.keys() == expected_shapes(model.spec).keys()
    for name, tensor in model.tensors.items():
        assert np.array_equal(decode(tensor), state[HUGGING_FACE_NAMES.stored_name(name)].numpy()), name


@every_family
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_gguf_gives_the_tensors_of_the_folder(tmp_path: Path, family: FamilyName, tied: bool) -> None:
    """Spec and values agree, although llama's query and key rows are stored in another order."""
    folder, _ = transformers_folder(tmp_path, family, tied=tied)
    path = write_gguf_of(folder, tmp_path / "model.gguf", "F32")

    from_folder, from_file = open_model(folder), open_model(path)

    assert from_file.spec == from_folder.spec
    assert from_file.tensors.keys() == from_folder.tensors.keys()
    for name in from_folder.tensors:
        assert np.array_equal(decode(from_file.tensors[name]), decode(from_folder.tensors[name])), name


@every_family
@pytest.mark.parametrize("format_name", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_files_hold_the_quantized_folder(tmp_path: Path, family: FamilyName, format_name: str) -> None:
    """Reordering rows and quantizing rows commute: blocks are those of the original order."""
    folder = make_random_model(tmp_path / family, sizes=SMALL, family=family)
    path = write_gguf_of(folder, tmp_path / "model.gguf", format_name)
    kind = gguf.GGMLQuantizationType[format_name]

    from_folder, from_file = open_model(folder), open_model(path)

    for name, tensor in from_file.tensors.items():
        values = decode(from_folder.tensors[name])
        if values.ndim > 1:
            values = gguf.dequantize(gguf.quantize(values, kind), kind).reshape(values.shape)
        assert np.array_equal(decode(tensor), values), name


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(kind="linear", factor=4.0),
        RopeScaling(kind="llama3", factor=8.0),
        RopeScaling(kind="llama3", factor=32.0, original_context=512),
    ],
    ids=["linear", "llama3", "llama3 of a short context"],
)
def test_rope_scaling_survives_both_formats(tmp_path: Path, scaling: RopeScaling) -> None:
    """Scaling is the same from config.json, from GGUF metadata and from `rope_freqs.weight`."""
    sizes = ModelSizes(num_layers=1, num_heads=2, num_kv_heads=2, vocab_size=300, max_context=131072)
    folder = make_random_model(tmp_path / "m", sizes=sizes, rope_theta=500000.0, rope_scaling=scaling)
    path = write_gguf_of(folder, tmp_path / "m.gguf", "F16")

    assert open_model(folder).spec.rope_scaling == scaling
    assert open_model(path).spec == open_model(folder).spec


@pytest.mark.parametrize("format_name", ["Q4_K", "Q5_K", "Q6_K"])
def test_k_quants_are_reordered_as_blocks(tmp_path: Path, format_name: str) -> None:
    """Blocks that only others can write keep their bytes, in half-split order."""
    spec = open_model(make_random_model(tmp_path / "m", sizes=ModelSizes(num_layers=1, vocab_size=300))).spec
    form, rng = FORMATS[format_name], np.random.default_rng(0)
    tensors = {
        name: StoredTensor(name, "F32", shape, FORMATS["F32"].encode(np.ones((1, *shape), np.float32)))
        if len(shape) == 1
        else StoredTensor(
            name, form.name, shape, rng.integers(0, 256, (shape[0], form.bytes_per_row(shape[1])), np.uint8)
        )
        for name, shape in expected_shapes(spec).items()
    }
    path = write_as_llama(tmp_path / "k.gguf", spec, tensors)

    model = open_model(path)

    assert {tensor.format for tensor in model.tensors.values()} == {"F32", format_name}
    for name, tensor in tensors.items():
        assert np.array_equal(model.tensors[name].data, tensor.data), name


def test_llama_biases_are_reordered_too(tmp_path: Path) -> None:
    """A llama file with biases stores those of query and key in rotary order as well."""
    source = open_model(make_random_model(tmp_path / "q", sizes=SMALL, family="qwen2"))
    path = write_as_llama(tmp_path / "llama.gguf", source.spec, source.tensors)

    model = open_model(path)

    assert model.spec.qkv_bias
    for name in source.tensors:
        assert np.array_equal(decode(model.tensors[name]), decode(source.tensors[name])), name


def write_as_llama(path: Path, spec: ModelSpec, tensors: Mapping[str, StoredTensor]) -> Path:
    """A llama file without a tokenizer, its query and key rows interleaved by index arithmetic."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(spec.max_context)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.ffn_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_layer_norm_rms_eps(spec.rms_norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    half = spec.head_dim // 2
    for name, tensor in tensors.items():
        data = tensor.data.reshape(tensor.shape[0], -1)
        if name.removesuffix(".bias").endswith((".q", ".k")):
            heads = range(0, len(data), spec.head_dim)
            data = data[[head + part * half + d for head in heads for d in range(half) for part in (0, 1)]]
        kind = gguf.GGMLQuantizationType[tensor.format]
        shaped = data if len(tensor.shape) > 1 else data.reshape(-1)
        writer.add_tensor(GGUF_NAMES.stored_name(name), shaped, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
