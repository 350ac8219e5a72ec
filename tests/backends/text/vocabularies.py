"""Small tokenizers in both file forms, for the tests of this folder."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from backends.testing.vocabulary import SPECIALS, build_vocabulary
from backends.weights.gguf import Metadata

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

TEXTS = (
    "",
    " ",
    "The hostel keeps one house for many guests.",
    "  two spaces,\ttab\nline\r\n\n\nthree   lines  ",
    "I'll say it's 12345 o'clock, THEY'RE 3.14 years late…",
    "naïve café Straße Łódź",
    "日本語と한국어 और हिन्दी",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈 flag 🤷🏽‍♀️",
    "e\u0301\u0316 combining, \u200b zero width, \ufeff mark",
    "def step(batch):\n    return {'a': [1, 2, 3]}\n",
    "<b>not special</b> <|nor this|> </s",
)


def byte_level_engine(*, with_bos: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer of 503 ids, built by the library."""
    vocabulary = build_vocabulary(500)
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens)}
    engine = Tokenizer(models.BPE(vocab=ids, merges=list(vocabulary.merges)))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    engine.add_special_tokens(list(SPECIALS))
    engine.add_tokens([AddedToken("<think>", normalized=False)])
    if with_bos:
        bos = "<|endoftext|>"
        engine.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, engine.token_to_id(bos))]
        )
    return engine


def write_folder(folder: Path, engine: Tokenizer, **config: object) -> Path:
    """tokenizer.json and tokenizer_config.json."""
    engine.save(str(folder / "tokenizer.json"))
    defaults = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_bytes(msgspec.json.encode({**defaults, **config}))
    return folder


def byte_level_metadata(pre: str = "gpt-2", **changes: object) -> Metadata:
    """The vocabulary of `byte_level_engine` as a GGUF file's metadata."""
    vocabulary = build_vocabulary(500)
    tokens = (*vocabulary.tokens, *SPECIALS, "<think>")
    fields: dict[str, object] = {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": (1,) * len(vocabulary.tokens) + (3, 3, 3, 4),
        "merges": tuple(f"{left} {right}" for left, right in vocabulary.merges),
        "bos_token_id": tokens.index("<|endoftext|>"),
        "eos_token_id": tokens.index("<|im_end|>"),
    }
    return as_metadata({**fields, **changes})


def train_sentencepiece(texts: Sequence[str], *, add_dummy_prefix: bool = True) -> sentencepiece.SentencePieceProcessor:
    """A BPE model of 420 pieces with byte fallback, as Llama's is configured."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*texts] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=add_dummy_prefix,
        user_defined_symbols=["<think>"],
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(processor: sentencepiece.SentencePieceProcessor, **changes: object) -> Metadata:
    """The pieces as llama.cpp's converter writes them."""
    count = processor.get_piece_size()
    fields: dict[str, object] = {
        "model": "llama",
        "tokens": tuple(processor.id_to_piece(index) for index in range(count)),
        "scores": tuple(processor.get_score(index) for index in range(count)),
        "token_type": tuple(_piece_type(processor, index) for index in range(count)),
        "bos_token_id": processor.bos_id(),
        "eos_token_id": processor.eos_id(),
        "unknown_token_id": processor.unk_id(),
    }
    return as_metadata({**fields, **changes})


def as_metadata(fields: Mapping[str, Any]) -> Metadata:  # Any: tests also write wrong values
    """Keys with their prefix; `None` leaves a key out."""
    return {f"tokenizer.ggml.{key}": value for key, value in fields.items() if value is not None}


def _piece_type(processor: sentencepiece.SentencePieceProcessor, index: int) -> int:
    if processor.is_unknown(index):
        return 2
    if processor.is_control(index):
        return 3
    if processor.is_byte(index):
        return 6
    return 4 if processor.id_to_piece(index) == "<think>" else 1
