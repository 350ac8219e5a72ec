"""Demo models as plain arrays with their dimensions, read from and written to Hugging Face directories."""

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from tools.demo_model.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, SPECIALS, START_OF_TURN


class ModelShape(msgspec.Struct, frozen=True, kw_only=True):
    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int = 64
    vocab: int = 1024
    context: int = 1024
    eps: float = 1e-5
    rope_theta: float = 10000.0


MODEL = ModelShape(hidden=256, layers=4, ffn=768, heads=4, kv_heads=2)
DRAFT = ModelShape(hidden=256, layers=1, ffn=256, heads=4, kv_heads=2)


CheckpointWeights = dict[str, NDArray[np.float32]]


class Checkpoint(msgspec.Struct, frozen=True):
    """Float32 weights under their Hugging Face names, and the text of `tokenizer.json`."""

    shape: ModelShape
    weights: CheckpointWeights
    tokenizer_json: str


def write_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write a Hugging Face folder, creating it where needed and replacing the files of an older one."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(checkpoint.weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json, encoding="utf-8")
    _write_json(folder / "config.json", _config(checkpoint.shape))
    _write_json(folder / "generation_config.json", _generation_config())
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(checkpoint.shape))


def read_folder(folder: Path) -> Checkpoint:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = {name: array.astype(np.float32) for name, array in load_file(folder / "model.safetensors").items()}
    return Checkpoint(_shape(config), weights, (folder / "tokenizer.json").read_text(encoding="utf-8"))


def _config(shape: ModelShape) -> dict[str, Any]:  # Any: JSON of a foreign format
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_theta,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        **_generation_config(),
    }


def _shape(config: dict[str, Any]) -> ModelShape:  # Any: JSON of a foreign format
    return ModelShape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        ffn=config["intermediate_size"],
        heads=config["num_attention_heads"],
        kv_heads=config["num_key_value_heads"],
        head_dim=config["head_dim"],
        vocab=config["vocab_size"],
        context=config["max_position_embeddings"],
        eps=config["rms_norm_eps"],
        rope_theta=config["rope_theta"],
    )


def _generation_config() -> dict[str, int]:
    return {
        "bos_token_id": SPECIALS.index(END_OF_TEXT),
        "eos_token_id": SPECIALS.index(END_OF_TURN),
        "pad_token_id": SPECIALS.index(END_OF_TEXT),
    }


def _tokenizer_config(shape: ModelShape) -> dict[str, Any]:  # Any: JSON of a foreign format
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TURN,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [START_OF_TURN],
        "model_max_length": shape.context,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:  # Any: JSON of a foreign format
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
