"""Expected answers of a model: greedy ids, text and log-probabilities from the independent forward."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import numpy as np

from e2e.harness.forward import F32, Llama, read_llama
from e2e.harness.tokens import Vocabulary, read_vocabulary

MIN_TOP2_GAP = 1e-4
"""Logits closer than this may legitimately swap between two float32 implementations."""


class Expected(msgspec.Struct, frozen=True):
    """A greedy answer. `ids` ends with the end token if it was reached and honoured."""

    ids: list[int]
    logprobs: list[float]
    min_gap: float
    """Smallest distance between the two best logits on the way."""
    text: str
    pieces: list[bytes]


class Reference:
    """One model; answers are computed once and kept for the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model: Llama = read_llama(path)
        self.vocabulary: Vocabulary = read_vocabulary(path)
        self._known: dict[tuple[tuple[int, ...], int, bool], Expected] = {}

    def chat(self, content: str, *, max_tokens: int = 40, ignore_eos: bool = False) -> Expected:
        """The answer to one user message."""
        ids = self.vocabulary.chat_ids([{"role": "user", "content": content}])
        return self.greedy(ids, max_tokens, ignore_eos=ignore_eos)

    def greedy(self, prompt: list[int], max_tokens: int, *, ignore_eos: bool = False) -> Expected:
        key = (tuple(prompt), max_tokens, ignore_eos)
        if key not in self._known:
            self._known[key] = self._greedy(prompt, max_tokens, ignore_eos)
        return self._known[key]

    def steady_prompts(self, draw: random.Random, count: int, *, max_tokens: int, lengths: range) -> list[list[int]]:
        """Random prompts whose greedy answers hang on no near tie. The end token is ignored throughout."""
        ordinary = [index for index in range(self.vocabulary.size) if index not in self.vocabulary.special]
        prompts: list[list[int]] = []
        for _ in range(4 * count):
            prompt = draw.choices(ordinary, k=draw.choice(lengths))
            if self.greedy(prompt, max_tokens, ignore_eos=True).min_gap >= MIN_TOP2_GAP:
                prompts.append(prompt)
            if len(prompts) == count:
                return prompts
        raise AssertionError(f"only {len(prompts)} of {4 * count} random prompts have no near tie")

    def logprobs(self, tokens: list[int]) -> list[float]:
        """Log-probabilities of every token but the first, given those before it."""
        rows = self.model.logits(tokens[:-1], last=len(tokens) - 1)
        return [float(row[token]) - _log_sum_exp(row) for row, token in zip(rows, tokens[1:], strict=True)]

    def _greedy(self, prompt: list[int], max_tokens: int, ignore_eos: bool) -> Expected:
        ids, logits = self._judged(prompt, max_tokens)
        ends = [place for place, index in enumerate(ids) if index in self.vocabulary.eos]
        if ends and not ignore_eos:
            ids = ids[: ends[0] + 1]
        rows = logits[: len(ids)]
        top2 = np.partition(rows, -2, axis=-1)[:, -2:]
        logprobs = [float(best) - _log_sum_exp(row) for best, row in zip(top2[:, 1], rows, strict=True)]
        pieces = [self.vocabulary.piece(index) for index in ids]
        return Expected(ids, logprobs, float((top2[:, 1] - top2[:, 0]).min()), self.vocabulary.text(ids), pieces)

    def _judged(self, prompt: list[int], max_tokens: int) -> tuple[list[int], F32]:
        """Greedy ids and the logits that chose them, all from the forward without a cache.

        Drafts are only a short cut: what the judge would have chosen otherwise is replaced, and the rest drafted again.
        """
        ids: list[int] = []
        while True:
            ids += self.model.draft(prompt + ids, max_tokens - len(ids))
            logits = self.model.logits(prompt + ids[:-1], last=max_tokens)
            chosen = logits.argmax(axis=-1).tolist()
            agreed = next((place for place in range(max_tokens) if chosen[place] != ids[place]), max_tokens)
            if agreed == max_tokens:
                return ids, logits
            ids = [*ids[:agreed], chosen[agreed]]


def _log_sum_exp(logits: F32) -> float:
    wide = logits.astype(np.float64)
    return float(wide.max() + np.log(np.exp(wide - wide.max()).sum()))
