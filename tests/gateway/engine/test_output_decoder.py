"""Tokens to events: cutting, counting, flushing."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.generation import Delta, Done, Event, Failed, Usage
from backends.text.load import load_tokenizer
from backends.text.tokenizer import Tokenizer
from gateway.batching.messages import Failure, Output
from gateway.engine.client_side.output_decoder import OutputDecoder


@pytest.fixture(scope="module")
def tokenizer(model_path: Path) -> Tokenizer:
    return load_tokenizer(model_path)


def ids(tokenizer: Tokenizer, text: bytes) -> list[int]:
    """One token a byte, whatever the vocabulary could do better."""
    by_byte = {tokenizer.token_bytes(token_id): token_id for token_id in range(tokenizer.vocab_size)}
    return [by_byte[bytes([byte])] for byte in text]


def run(tokenizer: Tokenizer, tokens: list[int], *, stops: tuple[str, ...] = (), reason: str = "length") -> list[Event]:
    decoder = OutputDecoder(tokenizer, prompt_ids=range(5), stops=stops)
    events: list[Event] = []
    for place, token in enumerate(tokens, start=1):
        last = place == len(tokens)
        events += decoder.take([Output(1, (token,), finish_reason=reason if last else None)])
        if decoder.is_finished:
            break
    return events


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta))


def test_half_a_character_is_held_back(tokenizer: Tokenizer) -> None:
    """Each token has its delta, but text comes only when the character is whole."""
    events = run(tokenizer, ids(tokenizer, "ü!".encode()))

    assert [event.text for event in events if isinstance(event, Delta)] == ["", "ü", "!"]


def test_end_shows_what_was_held_back(tokenizer: Tokenizer) -> None:
    """Half a stop string and half a character are shown when nothing more comes, in this order."""
    events = run(tokenizer, ids(tokenizer, b"say ST\xc3"), stops=("STOP",))

    assert text_of(events) == "say ST\ufffd"
    assert events[-1] == Done("length", Usage(prompt_tokens=5, completion_tokens=7))


def test_tokens_after_a_stop_string_are_not_counted(tokenizer: Tokenizer) -> None:
    """Tokens that follow the stop string in the same message were never offered and are not counted."""
    decoder = OutputDecoder(tokenizer, prompt_ids=range(5), stops=("b",))

    events = decoder.take([Output(1, tuple(ids(tokenizer, b"abcdef")))])

    assert events == [
        Delta("a", tuple(ids(tokenizer, b"ab"))),
        Done("stop", Usage(prompt_tokens=5, completion_tokens=2)),
    ]
    assert decoder.is_finished


def test_several_outputs_are_one_delta(tokenizer: Tokenizer) -> None:
    """A slow reader gets fewer, larger deltas."""
    decoder = OutputDecoder(tokenizer, prompt_ids=range(5), stops=())

    events = decoder.take([Output(1, (token,)) for token in ids(tokenizer, b"abc")])

    assert [event.text for event in events if isinstance(event, Delta)] == ["abc"]


def test_error_follows_what_was_said(tokenizer: Tokenizer) -> None:
    """Code and message are told apart; the usage counts what was offered."""
    decoder = OutputDecoder(tokenizer, prompt_ids=range(5), stops=())
    (token,) = ids(tokenizer, b"a")

    events = decoder.take([Output(1, (token,)), Output(1, (), error=Failure("engine_failed", "it: died"))])

    assert events == [
        Delta("a", (token,)),
        Failed("engine_failed", "it: died", Usage(prompt_tokens=5, completion_tokens=1)),
    ]
