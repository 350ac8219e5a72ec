"""Tensor names of the two file formats. Every supported family uses the same ones."""

from __future__ import annotations

import msgspec


class Naming(msgspec.Struct, frozen=True, kw_only=True):
    """Canonical names → stored names. `layer` entries follow `layer_prefix` with the layer number filled in."""

    top: dict[str, str]
    layer_prefix: str
    layer: dict[str, str]
    harmless_suffixes: tuple[str, ...] = ()
    """Stored tensors that may be there and are not needed: they repeat what the configuration says."""

    def stored_name(self, canonical: str) -> str:
        """The stored name of a canonical tensor (see `backends.weights.tensor`)."""
        if not canonical.startswith("layers."):
            return self.top[canonical]
        _, index, name = canonical.split(".", 2)
        return self.layer_prefix.format(index) + self.layer[name]


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
        "mlp_norm": "ffn_norm.weight",
        "gate": "ffn_gate.weight",
        "up": "ffn_up.weight",
        "down": "ffn_down.weight",
    },
    harmless_suffixes=("rope_freqs.weight",),
)
"""`rope_freqs.weight` is not ignored but read: see `backends.models.families.rope.scaling_from_factors`."""
