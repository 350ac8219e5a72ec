"""Drives a runner by hand: which sequence brings which tokens in a step, in either KV layout."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
import torch

from backends.api import F32, I32, KVLimit, LoadableModel, Runner, Step
from backends.torch import create_runner
from backends.torch.execute import EagerExecutor
from backends.torch.pool import TorchKVPool
from backends.torch.runner import TorchRunner

SLOTS, CONTEXT, BLOCK = 4, 256, 16
TABLES = np.random.default_rng(3).permutation(SLOTS * CONTEXT // BLOCK).reshape(SLOTS, -1).astype(np.int32)
"""Row s: the blocks of the sequence in slot s, scattered over the pool."""


class Part(msgspec.Struct, frozen=True):
    """New tokens of the sequence in `slot`, of which `start` are computed; logits of the last `rows` tokens."""

    slot: int
    tokens: list[int]
    start: int = 0
    rows: int = 1


def make_runner(
    model: LoadableModel, *, exact: bool = False, layout: Literal["slot", "paged"] = "slot", threads: int = 1
) -> Runner:
    runner = create_runner(threads=threads, exact=exact)
    runner.load(model, lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=2**30, max_sequences=SLOTS, max_context=CONTEXT, layout=layout))
    runner.warmup()
    return runner


def run(runner: Runner, *parts: Part, tables: I32 = TABLES) -> F32:
    """Logits of the asked rows, in the order of the parts."""
    return runner.collect(runner.submit(step_of(*parts, tables=tables))).logits.copy()


def step_of(*parts: Part, tables: I32 = TABLES) -> Step:
    """Names slots and blocks: each layout reads its own."""
    ends = np.cumsum([len(part.tokens) for part in parts])
    rows = [end - part.rows + i for end, part in zip(ends, parts, strict=True) for i in range(part.rows)]
    positions = [part.start + i for part in parts for i in range(len(part.tokens))]
    owners = [part.slot for part in parts for _ in part.tokens]
    places = [
        tables[owner, position // BLOCK] * BLOCK + position % BLOCK if position < CONTEXT else 0
        for owner, position in zip(owners, positions, strict=True)
    ]
    return Step(
        token_ids=np.array([token for part in parts for token in part.tokens], np.int64),
        positions=np.array(positions, np.int32),
        q_start=np.array([0, *ends], np.int32),
        kv_len=np.array([part.start + len(part.tokens) for part in parts], np.int32),
        slot=np.array([part.slot for part in parts], np.int32),
        logit_rows=np.array(rows, np.int32),
        lora=np.full(len(parts), -1, np.int32),
        block_table=tables[[part.slot for part in parts]],
        slot_map=np.array(places, np.int32),
    )


def pool_of(runner: Runner) -> TorchKVPool:
    assert isinstance(runner, TorchRunner)
    assert isinstance(runner.kv, EagerExecutor)
    return runner.kv.pool


def poison(runner: Runner) -> None:
    """Every key and value becomes NaN: whatever is read without having been written shows."""
    pool = pool_of(runner)
    with torch.inference_mode():
        for tensor in (*pool.keys, *pool.values):
            tensor.fill_(float("nan"))
