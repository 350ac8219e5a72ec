"""An independent Llama: float32 NumPy, own readers. It shares no code with the product.

`logits` is the judge: no KV cache, every position computed again. `draft` is a quick guess with a cache, for
`reference` to put before the judge.

Arithmetic after transformers' `LlamaForCausalLM` (rotary halves). GGUF stores query and key rows as interleaved
pairs (llama.cpp, `convert_hf_to_gguf.py`, `LlamaModel.permute`); `_halves` undoes that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

F32 = npt.NDArray[np.float32]
Cache = dict[str, tuple[F32, F32]]
"""Keys and values by layer, each [kv_heads, tokens, head_dim]."""


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    eps: float
    theta: float


class Llama:
    """Weights under their Hugging Face names; `logits(ids)` is the whole model."""

    def __init__(self, sizes: Sizes, weights: dict[str, F32]) -> None:
        self.sizes = sizes
        self.weights = weights
        half = sizes.head_dim // 2
        frequencies = sizes.theta ** -(np.arange(half, dtype=np.float64) / half)
        angles = np.arange(sizes.context)[:, None] * frequencies
        self._cos = np.tile(np.cos(angles), 2).astype(np.float32)
        self._sin = np.tile(np.sin(angles), 2).astype(np.float32)

    def logits(self, ids: list[int], *, last: int = 0) -> F32:
        """Next-token logits `[len(ids), vocab]`, or of the `last` positions only."""
        return self._logits(ids, last, {})

    def draft(self, prompt: list[int], count: int) -> list[int]:
        """A guess at the next `count` greedy tokens."""
        cache: Cache = {}
        ids: list[int] = []
        fresh = prompt
        while len(ids) < count:
            ids.append(int(self._logits(fresh, 1, cache)[0].argmax()))
            fresh = ids[-1:]
        return ids

    def _logits(self, ids: list[int], last: int, cache: Cache) -> F32:
        x = self.weights["model.embed_tokens.weight"][np.array(ids, np.int64)]
        for layer in range(self.sizes.layers):
            x = self._layer(x, f"model.layers.{layer}.", cache)
        head = self.weights.get("lm_head.weight", self.weights["model.embed_tokens.weight"])
        return self._norm(x[-last:], "model.norm.weight") @ head.T

    def _layer(self, x: F32, prefix: str, cache: Cache) -> F32:
        x = x + self._attention(self._norm(x, prefix + "input_layernorm.weight"), prefix + "self_attn.", cache)
        normed = self._norm(x, prefix + "post_attention_layernorm.weight")
        gate = self._linear(normed, prefix + "mlp.gate_proj")
        up = self._linear(normed, prefix + "mlp.up_proj")
        return x + self._linear(gate / (1 + np.exp(-gate)) * up, prefix + "mlp.down_proj")

    def _attention(self, x: F32, prefix: str, cache: Cache) -> F32:
        """Causal attention; `x` is [tokens, hidden] and follows the tokens in the cache."""
        group = self.sizes.heads // self.sizes.kv_heads
        past_k, past_v = cache.get(prefix, (None, None))
        start = 0 if past_k is None else past_k.shape[1]
        q = self._rotate(self._heads(x, prefix + "q_proj", self.sizes.heads), start)
        k = _joined(past_k, self._rotate(self._heads(x, prefix + "k_proj", self.sizes.kv_heads), start))
        v = _joined(past_v, self._heads(x, prefix + "v_proj", self.sizes.kv_heads))
        cache[prefix] = (k, v)
        scores = q @ k.repeat(group, axis=0).transpose(0, 2, 1) / np.float32(self.sizes.head_dim**0.5)
        scores += np.triu(np.full(scores.shape[1:], -np.inf, np.float32), start + 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (scores / scores.sum(axis=-1, keepdims=True)) @ v.repeat(group, axis=0)
        return self._linear(mixed.transpose(1, 0, 2).reshape(len(x), -1), prefix + "o_proj")

    def _heads(self, x: F32, name: str, heads: int) -> F32:
        """[tokens, hidden] to [heads, tokens, head_dim]."""
        return self._linear(x, name).reshape(len(x), heads, self.sizes.head_dim).transpose(1, 0, 2)

    def _rotate(self, x: F32, start: int) -> F32:
        half, places = self.sizes.head_dim // 2, slice(start, start + x.shape[1])
        turned = np.concatenate((-x[..., half:], x[..., :half]), axis=-1)
        return x * self._cos[places] + turned * self._sin[places]

    def _linear(self, x: F32, name: str) -> F32:
        y = x @ self.weights[name + ".weight"].T
        bias = self.weights.get(name + ".bias")
        return y if bias is None else y + bias

    def _norm(self, x: F32, name: str) -> F32:
        scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(self.sizes.eps))
        normed: F32 = x * scale * self.weights[name]
        return normed


def _joined(past: F32 | None, new: F32) -> F32:
    return new if past is None else np.concatenate((past, new), axis=1)


def read_llama(path: Path) -> Llama:
    """Read a plain Llama from a Hugging Face folder or a GGUF file."""
    return _read_folder(path) if path.is_dir() else _read_gguf(path)


def _read_folder(path: Path) -> Llama:
    config: dict[str, Any] = json.loads((path / "config.json").read_text())  # Any: JSON of a foreign format
    assert config["model_type"] == "llama", "this reference knows plain Llamas only"
    assert not config.get("rope_scaling"), "this reference knows no rope scaling"
    weights: dict[str, F32] = {}
    for file in sorted(path.glob("*.safetensors")):
        weights |= {name: array.astype(np.float32) for name, array in load_file(file).items()}
    heads = config["num_attention_heads"]
    sizes = Sizes(
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads", heads),
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        context=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        theta=_rope_theta(config),
    )
    return Llama(sizes, weights)


def _rope_theta(config: dict[str, Any]) -> float:  # Any: JSON of a foreign format
    nested = config.get("rope_parameters") or {}
    return float(config.get("rope_theta") or nested.get("rope_theta") or 10000.0)


_GGUF_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}


def _read_gguf(path: Path) -> Llama:
    reader = gguf.GGUFReader(path)
    heads = int(gguf_value(reader, "llama.attention.head_count"))
    kv_heads = int(gguf_value(reader, "llama.attention.head_count_kv", heads))
    hidden = int(gguf_value(reader, "llama.embedding_length"))
    sizes = Sizes(
        layers=int(gguf_value(reader, "llama.block_count")),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=int(gguf_value(reader, "llama.attention.key_length", hidden // heads)),
        context=int(gguf_value(reader, "llama.context_length")),
        eps=float(gguf_value(reader, "llama.attention.layer_norm_rms_epsilon")),
        theta=float(gguf_value(reader, "llama.rope.freq_base", 10000.0)),
    )
    weights: dict[str, F32] = {}
    for tensor in reader.tensors:
        weights[_hf_name(tensor.name)] = _halves(tensor.name, _dequantized(tensor), sizes)
    return Llama(sizes, weights)


def _dequantized(tensor: gguf.ReaderTensor) -> F32:
    if tensor.tensor_type != gguf.GGMLQuantizationType.Q8_K:
        return np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
    # The package does not decode this one: f32 scale, 256 int8, 16 int16 of sums (block_q8_K in ggml-common.h).
    blocks = tensor.data.reshape(-1, 292)
    scales = blocks[:, :4].copy().view("<f4")
    return (scales * blocks[:, 4:260].view(np.int8)).astype(np.float32).reshape(tensor.shape[::-1])


def gguf_value(reader: gguf.GGUFReader, key: str, default: object = None) -> Any:  # Any: the file says the type
    field = reader.get_field(key)
    if field is None:
        assert default is not None, f"{key} is missing"
        return default
    return field.contents()


def _hf_name(name: str) -> str:
    parts = name.split(".")
    if parts[0] != "blk":
        return f"{_GGUF_NAMES[parts[0]]}.{parts[1]}"
    return f"model.layers.{parts[1]}.{_GGUF_NAMES[parts[2]]}.{parts[3]}"


def _halves(name: str, array: F32, sizes: Sizes) -> F32:
    heads = {"attn_q": sizes.heads, "attn_k": sizes.kv_heads}.get(name.split(".")[-2], 0)
    if not heads:
        return array
    paired = array.reshape(heads, sizes.head_dim // 2, 2, -1)
    return paired.swapaxes(1, 2).reshape(array.shape)
