"""A demo model as a GGUF file, and back.

python -m tools.demo_model.export GGUF FOLDER     unpack a shipped file into a Hugging Face folder
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from gateway.demo import MODEL_NAME
from tools.demo_model.checkpoint import Checkpoint, CheckpointWeights, ModelShape, write_folder
from tools.demo_model.tokenizer import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, PRE_TOKENIZER, SPECIALS, build_tokenizer

FORMATS = ("F32", "F16", "Q8_0", "Q4_0")

_TOP_LEVEL = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
_IN_LAYER = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(checkpoint: Checkpoint, path: Path, *, name: str = MODEL_NAME, format: str = "Q8_0") -> None:
    """Write the matrices in `format` and the norms in F32."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_dimensions(writer, checkpoint.shape)
    _add_tokenizer(writer, checkpoint.tokenizer_json)
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_file_type(_file_type(format))
    for hf_name, array in checkpoint.weights.items():
        _add_tensor(writer, hf_name, array, checkpoint.shape, gguf.GGMLQuantizationType[format])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path: Path) -> Checkpoint:
    """A checkpoint from a file that `write_gguf` wrote, with the weights dequantized to float32."""
    reader = gguf.GGUFReader(path)
    shape = _read_shape(reader)
    weights: CheckpointWeights = {}
    for tensor in reader.tensors:
        name = hf_name(tensor.name)
        array = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weights[name] = _unpermuted(name, array, shape)
    merges = [_pair(merge) for merge in _field(reader, "tokenizer.ggml.merges")]
    return Checkpoint(shape, weights, build_tokenizer(_field(reader, "tokenizer.ggml.tokens"), merges).to_str())


def gguf_name(name: str) -> str:
    """`model.layers.0.mlp.up_proj.weight` -> `blk.0.ffn_up.weight`."""
    if name in _TOP_LEVEL:
        return _TOP_LEVEL[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_IN_LAYER[rest.removesuffix('.weight')]}.weight"


def hf_name(name: str) -> str:
    """The inverse of `gguf_name`."""
    for ours, theirs in _TOP_LEVEL.items():
        if theirs == name:
            return ours
    _, layer, rest, _ = name.split(".")
    inside = next(ours for ours, theirs in _IN_LAYER.items() if theirs == rest)
    return f"model.layers.{layer}.{inside}.weight"


def _add_dimensions(writer: gguf.GGUFWriter, shape: ModelShape) -> None:
    writer.add_vocab_size(shape.vocab)
    writer.add_context_length(shape.context)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.eps)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer_json: str) -> None:
    model = json.loads(tokenizer_json)["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [gguf.TokenType.CONTROL if token in SPECIALS else gguf.TokenType.NORMAL for token in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(tokens.index(END_OF_TEXT))
    writer.add_eos_token_id(tokens.index(END_OF_TURN))
    writer.add_pad_token_id(tokens.index(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensor(
    writer: gguf.GGUFWriter,
    name: str,
    array: NDArray[np.float32],
    shape: ModelShape,
    matrix_type: gguf.GGMLQuantizationType,
) -> None:
    tensor_type = matrix_type if array.ndim == 2 else gguf.GGMLQuantizationType.F32
    data = gguf.quantize(_permuted(name, array, shape), tensor_type)
    writer.add_tensor(gguf_name(name), data, raw_dtype=tensor_type)


def _permuted(name: str, array: NDArray[np.float32], shape: ModelShape) -> NDArray[np.float32]:
    """Query and key rows from rotary halves (Hugging Face) to llama.cpp's interleaved pairs."""
    heads = _rotary_heads(name, shape)
    if not heads:
        return array
    return array.reshape(heads, 2, shape.head_dim // 2, -1).swapaxes(1, 2).reshape(array.shape)


def _unpermuted(name: str, array: NDArray[np.float32], shape: ModelShape) -> NDArray[np.float32]:
    heads = _rotary_heads(name, shape)
    if not heads:
        return array
    return array.reshape(heads, shape.head_dim // 2, 2, -1).swapaxes(1, 2).reshape(array.shape)


def _rotary_heads(name: str, shape: ModelShape) -> int:
    if name.endswith("q_proj.weight"):
        return shape.heads
    return shape.kv_heads if name.endswith("k_proj.weight") else 0


def _file_type(format: str) -> gguf.LlamaFileType:
    return gguf.LlamaFileType.ALL_F32 if format == "F32" else gguf.LlamaFileType[f"MOSTLY_{format}"]


def _read_shape(reader: gguf.GGUFReader) -> ModelShape:
    return ModelShape(
        hidden=_field(reader, "llama.embedding_length"),
        layers=_field(reader, "llama.block_count"),
        ffn=_field(reader, "llama.feed_forward_length"),
        heads=_field(reader, "llama.attention.head_count"),
        kv_heads=_field(reader, "llama.attention.head_count_kv"),
        head_dim=_field(reader, "llama.attention.key_length"),
        vocab=_field(reader, "llama.vocab_size"),
        context=_field(reader, "llama.context_length"),
        eps=_rounded(_field(reader, "llama.attention.layer_norm_rms_epsilon")),
        rope_theta=_field(reader, "llama.rope.freq_base"),
    )


def _rounded(number: float) -> float:
    """The shortest decimal that is the same float32: 1e-5 rather than 9.999999747378752e-06."""
    return float(str(np.float32(number)))


def _field(reader: gguf.GGUFReader, key: str) -> Any:  # Any: a GGUF value has the type its file says
    field = reader.get_field(key)
    if field is None:
        raise ValueError(f"{key} is missing; only files written by tools.demo_model.export can be read")
    return field.contents()


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack a demo GGUF file into a Hugging Face folder.")
    parser.add_argument("gguf", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    write_folder(read_gguf(arguments.gguf), arguments.folder)


if __name__ == "__main__":
    main()
