"""Tensor names of the two file formats, family by family where they differ."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """Canonical names → stored names. `layer` entries follow `layer_prefix` with the layer number filled in.

    Entries for experts have the expert's number filled in. Canonical tensors with one stored name lie in it one below
    the other, in the order of `expected_shapes`.
    """

    top: Mapping[str, str]
    layer_prefix: str
    layer: Mapping[str, str]
    harmless_suffixes: tuple[str, ...] = ()
    """Suffixes of stored tensors that are optional and unused: they repeat what the configuration says."""

    def stored_name(self, canonical: str) -> str:
        """The stored name of a canonical tensor (see `backends.weights.tensor`)."""
        if not canonical.startswith("layers."):
            return self.top[canonical]
        _, index, name = canonical.split(".", 2)
        if not name.startswith("experts."):
            return self.layer_prefix.format(index) + self.layer[name]
        _, expert, matrix = name.split(".")
        return self.layer_prefix.format(index) + self.layer[f"experts.{matrix}"].format(expert)

    def but(self, **layer: str) -> Naming:
        """The same with other names inside a layer; `_` stands for the dot of a canonical name."""
        changed = {name.replace("experts_", "experts."): stored for name, stored in layer.items()}
        return msgspec.structs.replace(self, layer={**self.layer, **changed})


HUGGING_FACE_NAMES = Naming(
    top={"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"},
    layer_prefix="model.layers.{}.",
    layer={
        "attn_norm": "input_layernorm.weight",
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "q.bias": "self_attn.q_proj.bias",
        "k.bias": "self_attn.k_proj.bias",
        "v.bias": "self_attn.v_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "o": "self_attn.o_proj.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
    },
    harmless_suffixes=("rotary_emb.inv_freq",),
)

_POST_NORMS = HUGGING_FACE_NAMES.but(
    attn_post_norm="post_attention_layernorm.weight", mlp_post_norm="post_feedforward_layernorm.weight"
)
GEMMA_NAMES = _POST_NORMS.but(mlp_norm="pre_feedforward_layernorm.weight")
OLMO2_NAMES = _POST_NORMS
PHI3_NAMES = HUGGING_FACE_NAMES.but(
    q="self_attn.qkv_proj.weight",
    k="self_attn.qkv_proj.weight",
    v="self_attn.qkv_proj.weight",
    gate="mlp.gate_up_proj.weight",
    up="mlp.gate_up_proj.weight",
)
QWEN3_MOE_NAMES = HUGGING_FACE_NAMES.but(
    router="mlp.gate.weight",
    experts_gate="mlp.experts.{}.gate_proj.weight",
    experts_up="mlp.experts.{}.up_proj.weight",
    experts_down="mlp.experts.{}.down_proj.weight",
)
MIXTRAL_NAMES = HUGGING_FACE_NAMES.but(
    router="block_sparse_moe.gate.weight",
    experts_gate="block_sparse_moe.experts.{}.w1.weight",
    experts_up="block_sparse_moe.experts.{}.w3.weight",
    experts_down="block_sparse_moe.experts.{}.w2.weight",
)

GGUF_NAMES = Naming(
    top={"embed": "token_embd.weight", "final_norm": "output_norm.weight", "head": "output.weight"},
    layer_prefix="blk.{}.",
    layer={
        "attn_norm": "attn_norm.weight",
        "q": "attn_q.weight",
        "k": "attn_k.weight",
        "v": "attn_v.weight",
        "q.bias": "attn_q.bias",
        "k.bias": "attn_k.bias",
        "v.bias": "attn_v.bias",
        "q_norm": "attn_q_norm.weight",
        "k_norm": "attn_k_norm.weight",
        "o": "attn_output.weight",
        "attn_post_norm": "post_attention_norm.weight",
        "mlp_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
        "router": "ffn_gate_inp.weight",
        "experts.gate": "ffn_gate_exps.weight",
        "experts.up": "ffn_up_exps.weight",
        "experts.down": "ffn_down_exps.weight",
        "mlp_post_norm": "post_ffw_norm.weight",
    },
    harmless_suffixes=("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"),
)
"""The rotary factors are not ignored but read: see `backends.models.families.rope`."""

GGUF_PHI3_NAMES = GGUF_NAMES.but(
    q="attn_qkv.weight", k="attn_qkv.weight", v="attn_qkv.weight", gate="ffn_up.weight", up="ffn_up.weight"
)
