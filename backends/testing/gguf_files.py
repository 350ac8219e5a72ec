"""GGUF files of the folders that `backends.testing.models` writes, made with the gguf package (extra `dev`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import numpy.typing as npt

from backends.loading import open_model
from backends.loading.canonical import by_stored_name
from backends.models.families.table import GGUF, GgufFamily
from backends.models.rotary import llama3_factors
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec, Rope
from backends.weights.tensor import decode

F32 = npt.NDArray[np.float32]

_ARCHITECTURES = {"mistral": "llama", "mixtral": "llama", "qwen3_moe": "qwen3moe"}
"""Hugging Face family → `general.architecture`, where they differ."""
_FILE_TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16"}


def write_gguf(folder: Path, path: Path, format_name: str) -> None:
    """Matrices as `format_name`, vectors as F32. Raises `NotImplementedError` for what gguf cannot encode."""
    model = open_model(folder)
    spec = model.spec
    architecture = _ARCHITECTURES.get(spec.family, spec.family)
    family = GGUF[architecture]
    writer = gguf.GGUFWriter(path, architecture)
    _add_sizes(writer, spec, format_name)
    _add_switches(writer, spec)
    _add_rope(writer, spec)
    _add_tokenizer(writer, folder)
    for stored, shapes in by_stored_name(expected_shapes(spec), family.naming).items():
        parts = [_in_file_order(decode(model.tensors[name]), name, spec, family) for name in shapes]
        values = np.stack(parts) if ".experts." in next(iter(shapes)) else np.concatenate(parts)
        _add_tensor(writer, stored, values, format_name)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_object(path: Path) -> dict[str, Any]:  # JSON of our own making
    value: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return value


def _add_sizes(writer: gguf.GGUFWriter, spec: ModelSpec, format_name: str) -> None:
    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES.get(format_name, f"MOSTLY_{format_name}")])
    writer.add_block_count(spec.num_layers)
    writer.add_context_length(spec.max_context)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_feed_forward_length(spec.ffn_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.rms_norm_eps)
    writer.add_vocab_size(spec.vocab_size)


def _add_switches(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    if spec.windows:
        writer.add_sliding_window(max(spec.windows))
        writer.add_sliding_window_pattern([window > 0 for window in spec.windows])
    if spec.attention_softcap:
        writer.add_attn_logit_softcapping(spec.attention_softcap)
    if spec.final_softcap:
        writer.add_final_logit_softcapping(spec.final_softcap)
    if spec.num_experts:
        writer.add_expert_count(spec.num_experts)
        writer.add_expert_used_count(spec.experts_per_token)
        writer.add_expert_feed_forward_length(spec.ffn_size)


def _add_rope(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    writer.add_rope_freq_base(spec.rope_theta)
    scaling = spec.rope_scaling
    if scaling is None:
        return
    if scaling.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling.factor)
        return
    if scaling.kind == "factors":
        writer.add_rope_scaling_orig_ctx_len(spec.max_context)
        writer.add_rope_scaling_attn_factors(scaling.attention_factor)
        writer.add_tensor("rope_factors_short.weight", np.array(scaling.factors, np.float32))
        writer.add_tensor("rope_factors_long.weight", np.array(scaling.factors, np.float32) * np.float32(4))
        return
    writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
    factors = llama3_factors(Rope(spec.rope_theta, scaling), spec.head_dim)
    writer.add_tensor("rope_freqs.weight", np.array(factors, np.float32))


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path) -> None:
    tokenizer = _read_object(folder / "tokenizer.json")
    config = _read_object(folder / "tokenizer_config.json")
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    ids = tokenizer["model"]["vocab"] | added
    tokens = sorted(ids, key=ids.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in added else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(ids[config["eos_token"]])
    writer.add_pad_token_id(ids[config["pad_token"]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(config["chat_template"])


def _in_file_order(values: F32, name: str, spec: ModelSpec, family: GgufFamily) -> F32:
    """Interleave query and key rows as llama.cpp's converter does (`LlamaModel.permute`)."""
    kind = name.rpartition(".")[2] if not name.endswith(".bias") else name.split(".")[-2]
    heads = {"q": spec.num_heads, "k": spec.num_kv_heads}.get(kind)
    if heads is None or not family.interleaved_rotary:
        return values
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _add_tensor(writer: gguf.GGUFWriter, name: str, values: F32, format_name: str) -> None:
    if values.ndim == 1 or format_name == "F32":
        writer.add_tensor(name, values)
        return
    kind = gguf.GGMLQuantizationType[format_name]
    writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
