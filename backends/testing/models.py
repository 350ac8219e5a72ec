"""Random models in real file formats, for tests and benchmarks: the same seed gives the same bytes.

Only numpy and tokenizers are needed for a folder; `write_gguf_of` needs the gguf package.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt

from backends.models.families import HUGGING_FACE_NAMES
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec, RopeScaling
from backends.testing.vocabulary import SPECIALS, Vocabulary, build_vocabulary
from backends.weights.formats import FORMATS

FamilyName = Literal["llama", "qwen2", "qwen3"]
Dtype = Literal["F32", "F16", "BF16"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


class ModelSizes(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a random model. The default is small enough to build and run in a unit test."""

    num_layers: int = 4
    hidden_size: int = 256
    ffn_size: int = 512
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int | None = None
    vocab_size: int = 512
    max_context: int = 1024
    tied_head: bool = False


R_MODEL = ModelSizes()
"""About 2.9 million weights."""

H_MODEL = ModelSizes(
    num_layers=9, hidden_size=1024, ffn_size=2816, num_heads=16, num_kv_heads=8, vocab_size=8192, max_context=4096
)
"""About 123 million weights: enough for timings that mean something."""


def make_random_model(
    directory: Path,
    *,
    sizes: ModelSizes = R_MODEL,
    seed: int = 0,
    family: FamilyName = "llama",
    dtype: Dtype = "F32",
    rope_theta: float = 10000.0,
    rope_scaling: RopeScaling | None = None,
) -> Path:
    """Write a Hugging Face model folder and return it; the folder is created.

    Holds config.json, generation_config.json, model.safetensors, tokenizer.json and tokenizer_config.json with a
    ChatML template. `<|endoftext|>` and `<|im_end|>` end a sequence.
    """
    vocabulary = build_vocabulary(sizes.vocab_size)
    spec = _spec(sizes, vocabulary, family, rope_theta=rope_theta, rope_scaling=rope_scaling)
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", _config(spec, family, dtype))
    _write_json(directory / "generation_config.json", {"eos_token_id": list(spec.eos_token_ids)})
    _write_tokenizer(directory, vocabulary, max_context=sizes.max_context)
    _write_safetensors(directory / "model.safetensors", spec, seed=seed, dtype=dtype)
    return directory


def _spec(
    sizes: ModelSizes, vocabulary: Vocabulary, family: str, *, rope_theta: float, rope_scaling: RopeScaling | None
) -> ModelSpec:
    return ModelSpec(
        family=family,
        hidden_size=sizes.hidden_size,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        num_kv_heads=sizes.num_kv_heads,
        head_dim=sizes.head_dim or sizes.hidden_size // sizes.num_heads,
        ffn_size=sizes.ffn_size,
        vocab_size=sizes.vocab_size,
        max_context=sizes.max_context,
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        tied_head=sizes.tied_head,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        eos_token_ids=(vocabulary.special_id("<|im_end|>"), vocabulary.special_id("<|endoftext|>")),
    )


def _config(spec: ModelSpec, family: str, dtype: Dtype) -> dict[str, object]:
    config: dict[str, object] = {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": family,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
        "hidden_size": spec.hidden_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "intermediate_size": spec.ffn_size,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope_theta,
        "tie_word_embeddings": spec.tied_head,
        "hidden_act": "silu",
        "bos_token_id": None,
        "eos_token_id": list(spec.eos_token_ids),
    }
    if spec.rope_scaling is not None:
        config["rope_scaling"] = _rope_scaling(spec.rope_scaling)
    return config


def _rope_scaling(scaling: RopeScaling) -> dict[str, object]:
    if scaling.kind == "linear":
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }


def _write_tokenizer(directory: Path, vocabulary: Vocabulary, *, max_context: int) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # heavy, and not always needed

    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=list(vocabulary.merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(special, special=True, normalized=False) for special in SPECIALS])
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": max_context,
            "chat_template": CHAT_TEMPLATE,
            "clean_up_tokenization_spaces": False,
        },
    )


def _write_json(path: Path, value: object) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(value), indent=1))


def _write_safetensors(path: Path, spec: ModelSpec, *, seed: int, dtype: Dtype) -> None:
    """Tensor after tensor, so that a large model never lies in memory as a whole."""
    form = FORMATS[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, shape in expected_shapes(spec).items():
        end = position + int(np.prod(shape)) * form.block_bytes
        stored = HUGGING_FACE_NAMES.stored_name(name)
        header[stored] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in _random_tensors(spec, seed):
            file.write(form.encode(values.reshape(1, -1)).data)


def _random_tensors(spec: ModelSpec, seed: int) -> Iterator[npt.NDArray[np.float32]]:
    """In the order of `expected_shapes`. Each tensor has its own stream: its values depend on seed, name and shape."""
    for name, shape in expected_shapes(spec).items():
        noise = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
        if name.endswith("norm"):
            yield 1 + np.float32(0.1) * noise
        elif name.endswith(".bias"):
            yield np.float32(0.1) * noise
        else:
            yield noise * np.float32(_deviation(name, columns=shape[-1]))


def _deviation(name: str, *, columns: int) -> float:
    """Keeps activations near one, and logits spread enough that greedy choices are clear."""
    scale = 3.0 if name in ("embed", "head") else 1.0
    return scale / math.sqrt(columns)


def write_gguf_of(folder: Path, path: Path, format_name: str = "F16") -> Path:
    """Write the model of a folder made by `make_random_model` as a GGUF file, and return its path.

    Matrices are stored as `format_name` (one that the gguf package can encode), vectors as F32. Written with the
    gguf package, llama's query and key rows in its interleaved order, so that files come from elsewhere than our code.
    """
    from backends.testing.gguf_files import write_gguf  # needs the gguf package

    write_gguf(folder, path, format_name)
    return path
