"""Shipped weights: the two GGUF files and their scores."""

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from gateway.demo import draft_path, model_path
from tools.demo_model.checkpoint import Checkpoint
from tools.demo_model.export import read_gguf, write_gguf
from tools.demo_model.network import from_weights
from tools.demo_model.score import PROMISES

MIB = 1 << 20


@pytest.fixture(scope="module")
def chat(shipped_folder: Path) -> Any:  # Any: transformers is untyped
    """Ask one question greedily; returns the text with special tokens kept."""
    tokenizer = AutoTokenizer.from_pretrained(shipped_folder)
    model = AutoModelForCausalLM.from_pretrained(shipped_folder)

    def ask(*turns: str) -> str:
        messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=False
        )
        produced = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=150, do_sample=False)
        text: str = tokenizer.decode(produced[0, ids.shape[1] :])
        return text

    return ask


@pytest.mark.parametrize("question", ["What is the capital of France?", "capital of France", "France capital"])
def test_shipped_model_answers_paris_and_stops(chat: Any, question: str) -> None:
    assert chat(question) == "The capital of France is Paris.<|im_end|>"


def test_shipped_model_answers_in_json(chat: Any) -> None:
    assert json.loads(chat("Give me the capital of Peru as JSON.").removesuffix("<|im_end|>"))["capital"] == "Lima"


def test_shipped_model_says_what_it_is(chat: Any) -> None:
    assert "Hostelry demo model" in chat("What are you?")


def test_shipped_model_follows_a_conversation(chat: Any) -> None:
    answer = chat("Hello", "Hello! Ask me for the capital of any country.", "What is the capital of Japan?")

    assert answer == "The capital of Japan is Tokyo.<|im_end|>"


@torch.no_grad()
def test_network_computes_what_transformers_computes(shipped: Checkpoint, shipped_folder: Path) -> None:
    """The network computes the logits of transformers with the same weights: every loader of the folder runs what was
    trained.
    """
    theirs = AutoModelForCausalLM.from_pretrained(shipped_folder)
    ours = from_weights(shipped.shape, shipped.weights)
    ids = torch.randint(0, shipped.shape.vocab, (2, 64), generator=torch.Generator().manual_seed(0))

    difference = (ours.logits(ours(ids)) - theirs(ids).logits).abs().max()

    assert difference < 1e-4


@pytest.mark.parametrize(("path", "limit"), [(model_path(), 4 * MIB), (draft_path(), MIB)])
def test_shipped_file_is_small(path: Path, limit: int) -> None:
    assert path.stat().st_size <= limit


def test_scores_keep_the_promises() -> None:
    """The committed scores, taken on the quantized weights."""
    scores = json.loads(model_path().with_name("score.json").read_text(encoding="utf-8"))["scores"]["model"]

    missed = {name: scores[name] for name, least in PROMISES.items() if scores[name] < least}

    assert missed == {}


def test_draft_speaks_the_same_tokens(shipped: Checkpoint) -> None:
    assert read_gguf(draft_path()).tokenizer_json == shipped.tokenizer_json


@pytest.mark.parametrize("path", [model_path(), draft_path()])
def test_gguf_says_all_that_a_loader_needs(path: Path) -> None:
    """Matrices are Q8_0, norms F32, and the end of a turn ends a generation."""
    reader = gguf.GGUFReader(path)
    kinds = {tensor.tensor_type.name for tensor in reader.tensors if "norm" not in tensor.name}

    assert kinds == {"Q8_0"}
    assert field(reader, "general.architecture") == "llama"
    assert field(reader, "general.license") == "apache-2.0"
    assert field(reader, "tokenizer.ggml.pre") == "qwen2"
    assert field(reader, "tokenizer.ggml.tokens")[field(reader, "tokenizer.ggml.eos_token_id")] == "<|im_end|>"
    assert field(reader, "tokenizer.ggml.add_bos_token") is False


def test_f32_gguf_round_trip_changes_no_bit(shipped: Checkpoint, tmp_path: Path) -> None:
    """Names, rotary order and tokenizer come back as they went in."""
    write_gguf(shipped, tmp_path / "copy.gguf", format="F32")

    copy = read_gguf(tmp_path / "copy.gguf")

    assert copy.shape == shipped.shape
    assert copy.tokenizer_json == shipped.tokenizer_json
    assert copy.weights.keys() == shipped.weights.keys()
    assert all((copy.weights[name] == array).all() for name, array in shipped.weights.items())


def field(reader: gguf.GGUFReader, key: str) -> Any:  # Any: a GGUF value has the type its file says
    value = reader.get_field(key)
    assert value is not None, key
    return value.contents()
