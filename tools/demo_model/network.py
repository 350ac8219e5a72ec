"""A Llama in plain torch, with the parameter names and the arithmetic of transformers' `LlamaForCausalLM`."""

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from tools.demo_model.checkpoint import CheckpointWeights, ModelShape


class Llama(nn.Module):
    """Token ids [batch, length] in, final hidden states [batch, length, hidden] out; `logits` is the tied head."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = RMSNorm(shape.hidden, shape.eps)
        cos, sin = rotary_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        length = ids.shape[1]
        x: Tensor = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos[:length], self.sin[:length])
        return cast(Tensor, self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.embed_tokens.weight)


class Layer(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden, shape.eps)
        self.mlp = GatedMLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + cast(Tensor, self.mlp(self.post_attention_layernorm(x)))


class Attention(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.head_dim = shape.head_dim
        self.group = shape.heads // shape.kv_heads
        self.q_proj = nn.Linear(shape.hidden, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.hidden, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q = rotate(self._heads(self.q_proj(x)), cos, sin)
        k = rotate(self._heads(self.k_proj(x)), cos, sin).repeat_interleave(self.group, dim=1)
        v = self._heads(self.v_proj(x)).repeat_interleave(self.group, dim=1)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return cast(Tensor, self.o_proj(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, x: Tensor) -> Tensor:
        """[batch, length, heads * head_dim] -> [batch, heads, length, head_dim]."""
        return x.view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)


class GatedMLP(nn.Module):
    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.ffn, bias=False)
        self.down_proj = nn.Linear(shape.ffn, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x)))


class RMSNorm(nn.Module):
    """torch's fused operator: a whole training step is a third faster than with the formula written out."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def rotary_tables(shape: ModelShape) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each [context, head_dim], the two halves of a head turned by the same angles."""
    frequencies = shape.rope_theta ** -(torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.outer(torch.arange(shape.context).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    turned: Tensor = x * cos + torch.cat((-high, low), dim=-1) * sin
    return turned.to(x.dtype)


def initialize(network: Llama, seed: int) -> None:
    """Normal weights of width 0.02; what writes into the residual stream is narrower the deeper the model."""
    generator = torch.Generator().manual_seed(seed)
    narrow = 0.02 / (2 * network.shape.layers) ** 0.5
    for name, weight in network.named_parameters():
        if weight.dim() == 2:
            std = narrow if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
            nn.init.normal_(weight, std=std, generator=generator)


def to_weights(network: Llama) -> CheckpointWeights:
    """The parameters under their Hugging Face names."""
    return {f"model.{name}": weight.detach().float().numpy() for name, weight in network.named_parameters()}


def from_weights(shape: ModelShape, weights: Mapping[str, NDArray[np.float32]]) -> Llama:
    network = Llama(shape)
    state = {name.removeprefix("model."): torch.from_numpy(np.array(array)) for name, array in weights.items()}
    network.load_state_dict(state)
    return network
