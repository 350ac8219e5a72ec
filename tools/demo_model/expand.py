"""Makes a demo model large without changing its function, for tests and benchmarks that need real size.

python -m tools.demo_model.expand OUT --hidden 1024 --layers 9 --ffn 2816 --heads-factor 4

Everything that writes into the residual stream is zero where it is new, so the old channels see what they saw
before and the new ones stay zero. Weights that only read new channels, or feed a zero, are noise: most of the
matrices are dense, and timing and quantizing them is realistic. Choose `hidden` as 4 or 16 times the old width to
keep the norm factor a power of two, hence bf16-exact.
"""

import argparse
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.demo import model_path
from tools.demo_model.checkpoint import Checkpoint, CheckpointWeights, ModelShape, read_folder, write_folder
from tools.demo_model.export import FORMATS, read_gguf, write_gguf

NOISE = 0.02

Array = NDArray[np.float32]


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """The wanted dimensions; each at least the old one."""

    hidden: int
    layers: int
    ffn: int
    heads_factor: int = 1

    def of(self, shape: ModelShape) -> ModelShape:
        if self.hidden < shape.hidden or self.layers < shape.layers or self.ffn < shape.ffn or self.heads_factor < 1:
            raise ValueError(f"can only grow; the model has {shape}")
        return msgspec.structs.replace(
            shape,
            hidden=self.hidden,
            layers=self.layers,
            ffn=self.ffn,
            heads=shape.heads * self.heads_factor,
            kv_heads=shape.kv_heads * self.heads_factor,
            eps=shape.eps * shape.hidden / self.hidden,
        )


def expand(checkpoint: Checkpoint, growth: Growth, *, seed: int = 0) -> Checkpoint:
    """A larger checkpoint with the same logits, up to float32 rounding; the seed draws the noise."""
    old, new = checkpoint.shape, growth.of(checkpoint.shape)
    rng = np.random.default_rng(seed)
    weights = {name: _grown(name, checkpoint.weights.get(name), old, new, rng) for name in _names(new)}
    return Checkpoint(new, weights, checkpoint.tokenizer_json)


def _grown(name: str, array: Array | None, old: ModelShape, new: ModelShape, rng: np.random.Generator) -> Array:
    if name.endswith("norm.weight"):
        return _grown_norm(array, old, new)
    grown = _background(name, new, rng)
    if array is not None:  # a new layer stays background: its zero outputs leave the residual stream alone
        grown[: array.shape[0], : array.shape[1]] = array
    return grown


def _background(name: str, shape: ModelShape, rng: np.random.Generator) -> Array:
    """Values outside the old block of a matrix: zeros if it writes to the residual stream, else noise."""
    size = _matrix_size(name, shape)
    if name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
        return np.zeros(size, np.float32)
    return rng.standard_normal(size, dtype=np.float32) * np.float32(NOISE)


def _grown_norm(array: Array | None, old: ModelShape, new: ModelShape) -> Array:
    """The mean square shrinks by old/new because the new channels are zero; weight and eps take that back."""
    grown = np.ones(new.hidden, np.float32)
    if array is not None:
        grown[: old.hidden] = array * np.float32((old.hidden / new.hidden) ** 0.5)
    return grown


def _matrix_size(name: str, shape: ModelShape) -> tuple[int, int]:
    kind = name.split(".")[-2]
    sizes = {
        "embed_tokens": (shape.vocab, shape.hidden),
        "q_proj": (shape.heads * shape.head_dim, shape.hidden),
        "k_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "v_proj": (shape.kv_heads * shape.head_dim, shape.hidden),
        "o_proj": (shape.hidden, shape.heads * shape.head_dim),
        "gate_proj": (shape.ffn, shape.hidden),
        "up_proj": (shape.ffn, shape.hidden),
        "down_proj": (shape.hidden, shape.ffn),
    }
    return sizes[kind]


_LAYER_PARTS = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def _names(shape: ModelShape) -> list[str]:
    layers = [f"model.layers.{i}.{part}.weight" for i in range(shape.layers) for part in _LAYER_PARTS]
    return ["model.embed_tokens.weight", *layers, "model.norm.weight"]


def parameters(weights: CheckpointWeights) -> int:
    return sum(array.size for array in weights.values())


def main() -> None:
    arguments = _arguments()
    source: Path = arguments.source
    checkpoint = read_folder(source) if source.is_dir() else read_gguf(source)
    growth = Growth(
        hidden=arguments.hidden, layers=arguments.layers, ffn=arguments.ffn, heads_factor=arguments.heads_factor
    )
    grown = expand(checkpoint, growth, seed=arguments.seed)
    write_folder(grown, arguments.out)
    if arguments.gguf:
        write_gguf(grown, arguments.gguf, name="hostelry-demo-expanded", format=arguments.format)
    print(f"{arguments.out}: {parameters(grown.weights) / 1e6:.1f} M parameters")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Grow a demo model without changing its answers.")
    parser.add_argument("out", type=Path, help="Hugging Face folder to write")
    parser.add_argument("--source", type=Path, default=model_path(), help="Hugging Face folder or demo GGUF file")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--ffn", type=int, default=2816)
    parser.add_argument("--heads-factor", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gguf", type=Path, help="also write a GGUF file here")
    parser.add_argument("--format", choices=FORMATS, default="Q8_0")
    return parser.parse_args()


if __name__ == "__main__":
    main()
