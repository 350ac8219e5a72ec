"""Drives a `CudaExecutor`: sequences in slots or scattered blocks, and a recorder that works without CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec
import numpy as np
import torch
from torch import Tensor

from backends.api import I32, KVPlan, LoadableModel, Step
from backends.steps import flat_indices
from backends.torch.cuda.executor import CudaExecutor
from backends.torch.cuda.graphs import GraphBody, Record, record_cuda
from backends.torch.cuda.weights import take_over
from backends.torch.weights import TorchWeights

SLOTS, CONTEXT, BLOCK = 6, 64, 16
TABLES = np.random.default_rng(5).permutation(SLOTS * CONTEXT // BLOCK).reshape(SLOTS, -1).astype(np.int32)
"""Row s: the blocks of the sequence in slot s, scattered over the pool."""

Layout = Literal["slot", "paged"]


class Part(msgspec.Struct, frozen=True):
    """New tokens of the sequence in `slot`, of which `start` are computed; logits of the last `rows` tokens."""

    slot: int
    tokens: list[int]
    start: int = 0
    rows: int = 1


def plan(layout: Layout = "paged") -> KVPlan:
    if layout == "slot":
        return KVPlan(layout="slot", num_blocks=SLOTS, block_tokens=CONTEXT, bytes_per_block=1)
    return KVPlan(layout="paged", num_blocks=TABLES.size, block_tokens=BLOCK, bytes_per_block=1)


@torch.inference_mode()
def make_executor(
    model: LoadableModel, device: torch.device, *, layout: Layout = "paged", record: Record | None = None
) -> CudaExecutor:
    """Executor whose KV is NaN, so that reading entries never written shows."""
    weights = take_over(TorchWeights(model, exact=False, device=device, progress=lambda _: None))
    executor = CudaExecutor(model.spec, weights, plan(layout), max_context=CONTEXT, device=device, record=record)
    for tensor in executor.keys_and_values:
        tensor.fill_(float("nan"))
    return executor


def recorder(device: torch.device) -> Record:
    """CUDA graphs where there is CUDA; else one that computes again into the tensor of the first time."""
    return record_cuda() if device.type == "cuda" else _record_on_cpu


def _record_on_cpu(body: GraphBody) -> tuple[Tensor, Callable[[], object]]:
    output = torch.full_like(body(), float("nan"))
    return output, lambda: output.copy_(body())


@torch.inference_mode()
def run(executor: CudaExecutor, *parts: Part, layout: Layout = "paged", picked: Tensor | None = None) -> Tensor:
    """A copy on the CPU."""
    return executor.run(step_of(*parts, layout=layout), picked).cpu().clone()


def step_of(*parts: Part, layout: Layout = "paged") -> Step:
    ends = np.cumsum([len(part.tokens) for part in parts]).astype(np.int32)
    counts = [len(part.tokens) for part in parts]
    positions = np.concatenate([np.arange(part.start, part.start + len(part.tokens)) for part in parts])
    rows = [end - part.rows + i for end, part in zip(ends.tolist(), parts, strict=True) for i in range(part.rows)]
    slots = np.array([part.slot for part in parts], np.int32)
    step = Step(
        token_ids=np.array([token for part in parts for token in part.tokens], np.int64),
        positions=positions.astype(np.int32),
        q_start=np.array([0, *ends], np.int32),
        kv_len=np.array([part.start + count for part, count in zip(parts, counts, strict=True)], np.int32),
        slot=slots,
        logit_rows=np.array(rows, np.int32),
        lora=np.full(len(parts), -1, np.int32),
    )
    if layout == "slot":
        return step
    table: I32 = TABLES[slots]
    return msgspec.structs.replace(step, block_table=table, slot_map=flat_indices(step, table, BLOCK))
