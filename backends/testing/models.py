"""Random models in real file formats, for tests and benchmarks: the same seed gives the same bytes.

Only numpy and tokenizers are needed for a folder; `write_gguf_of` needs the gguf package.
"""

from __future__ import annotations

import math
from itertools import chain
from pathlib import Path
from typing import Literal, get_args
from zlib import crc32

import msgspec
import numpy as np
import numpy.typing as npt

from backends.loading.canonical import by_stored_name, stacked_shape
from backends.models.families import spec_from_config
from backends.models.families.table import HUGGING_FACE, HuggingFaceFamily
from backends.models.shapes import expected_shapes
from backends.models.spec import ModelSpec, RopeScaling
from backends.testing.vocabulary import SPECIALS, Vocabulary, build_vocabulary
from backends.weights.formats import FORMATS

FamilyName = Literal["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "olmo2", "qwen3_moe", "mixtral"]
FAMILY_NAMES: tuple[FamilyName, ...] = get_args(FamilyName)
Dtype = Literal["F32", "F16", "BF16"]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_ARCHITECTURES = {row.name: architecture for architecture, row in HUGGING_FACE.items()}


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
    window: int | None = None
    """Tokens that a windowed layer sees, in the families that have such layers; `None` is the family's default."""
    num_experts: int = 4
    """Number of experts in families that are mixtures; `ffn_size` is that of one expert."""
    experts_per_token: int = 2


R_MODEL = ModelSizes()
"""About 2.9 million weights."""

H_MODEL = ModelSizes(
    num_layers=9, hidden_size=1024, ffn_size=2816, num_heads=16, num_kv_heads=8, vocab_size=8192, max_context=4096
)
"""About 123 million weights: enough for timings that mean something."""

HALF_B_MODEL = ModelSizes(
    num_layers=24,
    hidden_size=1024,
    ffn_size=5632,
    num_heads=16,
    num_kv_heads=4,
    vocab_size=16384,
    max_context=4096,
    tied_head=True,
)
"""About 495 million weights, every row a multiple of 256, so that every format fits."""


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
    ends = [vocabulary.special_id("<|im_end|>"), vocabulary.special_id("<|endoftext|>")]
    config = _sizes(sizes) | _own_fields(family, sizes) | _rope(rope_theta, rope_scaling)
    config |= {
        "architectures": [_ARCHITECTURES[family]],
        "model_type": {"gemma3": "gemma3_text"}.get(family, family),
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
        "bos_token_id": None,
        "eos_token_id": ends,
    }
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"eos_token_id": ends})
    _write_tokenizer(directory, vocabulary, max_context=sizes.max_context)
    spec = spec_from_config(config, {}, where=str(directory))
    _write_safetensors(directory / "model.safetensors", spec, HUGGING_FACE[_ARCHITECTURES[family]], seed, dtype)
    return directory


def _sizes(sizes: ModelSizes) -> dict[str, object]:
    return {
        "hidden_size": sizes.hidden_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": _head_dim(sizes),
        "intermediate_size": sizes.ffn_size,
        "vocab_size": sizes.vocab_size,
        "max_position_embeddings": sizes.max_context,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": sizes.tied_head,
        "pad_token_id": 0,
    }


def _head_dim(sizes: ModelSizes) -> int:
    return sizes.head_dim or sizes.hidden_size // sizes.num_heads


def _own_fields(family: FamilyName, sizes: ModelSizes) -> dict[str, object]:
    """Fields of the family's config.json that others lack."""
    match family:
        case "gemma2" | "gemma3":
            own = _gemma(family, sizes)
        case "mistral" | "phi3":
            own = {"sliding_window": sizes.window}
        case "qwen2" | "qwen3" if sizes.window is not None:
            own = {"use_sliding_window": True, "sliding_window": sizes.window, "max_window_layers": 1}
        case "qwen3_moe":
            own = _experts(sizes) | {"num_experts": sizes.num_experts, "moe_intermediate_size": sizes.ffn_size}
            own |= {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
        case "mixtral":
            own = _experts(sizes) | {"num_local_experts": sizes.num_experts, "sliding_window": None}
        case _:
            own = {}
    return {"hidden_act": "silu"} | own


def _experts(sizes: ModelSizes) -> dict[str, object]:
    return {"num_experts_per_tok": sizes.experts_per_token}


def _gemma(family: FamilyName, sizes: ModelSizes) -> dict[str, object]:
    has_caps = family == "gemma2"
    kinds = ["sliding_attention" if layer % 2 == 0 else "full_attention" for layer in range(sizes.num_layers)]
    own: dict[str, object] = {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": _head_dim(sizes),
        "attn_logit_softcapping": 50.0 if has_caps else None,
        "final_logit_softcapping": 30.0 if has_caps else None,
        "sliding_window": sizes.window or 4096,
        "layer_types": kinds,
    }
    return own if has_caps else own | {"rope_local_base_freq": 10000.0}


def _rope(theta: float, scaling: RopeScaling | None) -> dict[str, object]:
    return {"rope_theta": theta} | ({} if scaling is None else _rope_scaling(scaling))


def _rope_scaling(scaling: RopeScaling) -> dict[str, object]:
    if scaling.kind == "linear":
        return {"rope_scaling": {"rope_type": "linear", "factor": scaling.factor}}
    if scaling.kind == "factors":
        values: dict[str, object] = {"type": "longrope", "short_factor": list(scaling.factors)}
        values |= {"long_factor": [4.0 * factor for factor in scaling.factors]}
        values |= {"attention_factor": scaling.attention_factor}
        return {"rope_scaling": values, "original_max_position_embeddings": scaling.original_context}
    values = {
        "rope_type": scaling.kind,
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_context,
    }
    return {"rope_scaling": values}


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


def _write_safetensors(path: Path, spec: ModelSpec, family: HuggingFaceFamily, seed: int, dtype: Dtype) -> None:
    """Write tensor after tensor, so that a large model is never in memory as a whole."""
    form = FORMATS[dtype]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    parts = by_stored_name(expected_shapes(spec), family.naming)
    for stored, shapes in parts.items():
        shape = stacked_shape(list(shapes.values()))
        end = position + math.prod(shape) * form.block_bytes
        header[stored] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in chain.from_iterable(shapes.items() for shapes in parts.values()):
            values = _random_values(name, shape, seed)
            stored_less_one = family.is_gemma and name.endswith("norm")
            values = values - np.float32(1) if stored_less_one else values
            file.write(form.encode(values.reshape(1, -1)).data)


def _random_values(name: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[np.float32]:
    """Each tensor has its own stream: its values depend on seed, name and shape."""
    noise = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape, dtype=np.float32)
    if name.endswith("norm"):
        return 1 + np.float32(0.1) * noise
    if name.endswith(".bias"):
        return np.float32(0.1) * noise
    return noise * np.float32(_deviation(name, columns=shape[-1]))


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
