"""Drives a bare runner: several prompts in one batch, greedily, slot layout. For tests and benchmarks."""

from __future__ import annotations

from itertools import accumulate

import numpy as np

from backends.api import I64, Runner, Step


def continue_greedily(runner: Runner, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
    """`num_tokens` ids for each prompt, prompt i in slot i; end tokens end nothing. Memory was planned for them."""
    answers: list[list[int]] = [[] for _ in prompts]
    fresh, lengths = prompts, [0] * len(prompts)
    for _ in range(num_tokens):
        lengths = [length + len(tokens) for length, tokens in zip(lengths, fresh, strict=True)]
        chosen = _best(runner, step_of(fresh, lengths))
        for answer, token in zip(answers, chosen.tolist(), strict=True):
            answer.append(token)
        fresh = [[token] for token in chosen.tolist()]
    return answers


def step_of(fresh: list[list[int]], lengths: list[int]) -> Step:
    """Step with new tokens of the sequences in slots 0, 1, 2 …, `lengths` with them; logits of each last one."""
    ends = list(accumulate(len(tokens) for tokens in fresh))
    starts = [length - len(tokens) for length, tokens in zip(lengths, fresh, strict=True)]
    positions = [np.arange(start, end) for start, end in zip(starts, lengths, strict=True)]
    return Step(
        token_ids=np.concatenate([np.array(tokens, np.int64) for tokens in fresh]),
        positions=np.concatenate(positions).astype(np.int32),
        q_start=np.array([0, *ends], np.int32),
        kv_len=np.array(lengths, np.int32),
        slot=np.arange(len(fresh), dtype=np.int32),
        logit_rows=np.array(ends, np.int32) - 1,
        lora=np.full(len(fresh), -1, np.int32),
    )


def _best(runner: Runner, step: Step) -> I64:
    best: I64 = runner.collect(runner.submit(step)).logits.argmax(axis=1)
    return best
