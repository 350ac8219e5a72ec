"""Completions of token ids, and what the engine counted meanwhile."""

from __future__ import annotations

import random
import time

from e2e.harness.counters import Counters
from e2e.harness.running_server import Target
from e2e.harness.wire import Json, post_ok

ORDINARY = range(100, 300)
"""Ids that stand for text in every model of a server."""

WITHOUT_SPECIALS: Json = {"logit_bias": {"0": -100, "1": -100, "2": -100}}
"""The special tokens of the bundled model have no text, so that a stream of them would show nothing."""


def completion_body(prompt: list[int], *, max_tokens: int, model: str) -> Json:
    """Greedy, and of exactly that length."""
    return {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}


def complete(target: Target, prompt: list[int], *, key: str, max_tokens: int, model: str = "random") -> Json:
    body = completion_body(prompt, max_tokens=max_tokens, model=model)
    return post_ok(f"{target.api}/completions", body, key)


def drawn_prompt(draw: random.Random, length: int) -> list[int]:
    return draw.choices(ORDINARY, k=length)


def text_of(answer: Json) -> str:
    text = answer["choices"][0]["text"]
    assert isinstance(text, str)
    return text


def cached(answer: Json) -> int:
    found = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert isinstance(found, int)
    return found


def wait_idle(target: Target, model: str) -> None:
    """Wait until no tokens are computed any more, also for clients that left."""
    deadline = time.monotonic() + 60
    while Counters(target.url).total("hostelry_engine_running", model=model):
        assert time.monotonic() < deadline, f"{model} still computes"


def engine(target: Target, model: str) -> dict[str, float]:
    """The engine's totals now, by their short names."""
    counters = Counters(target.url)
    names = ("steps", "batched_sequences", "prefill_tokens", "generated_tokens", "cached_tokens", "step_seconds")
    return {name: counters.total(f"hostelry_engine_{name}_total", model=model) for name in names}
