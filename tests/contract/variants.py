"""Honest runners that declare little, plan differently, or compute nothing: the kit asks no more than they say."""

from __future__ import annotations

import msgspec
import numpy as np

from backends.api import F32, I64, KVLimit, KVPlan, RunnerCapabilities, Step
from backends.errors import CapacityExceeded, Fatal
from backends.runner_base import context_of
from tests.contract.replay import CAPABILITIES, ReplayRunner

BLOCK_TOKENS = 128


class Blank(ReplayRunner):
    """All logits are 0: the runner for a check of thousands of steps that does not look at them."""

    def rows(self, step: Step, kv: I64, sequence: int) -> F32:
        start, end = step.q_start[sequence], step.q_start[sequence + 1]
        wanted = np.count_nonzero((step.logit_rows >= start) & (step.logit_rows < end))
        return np.zeros((wanted, self.loaded().model.spec.vocab_size), np.float32)


class Modest(ReplayRunner):
    """One layout, one format, one row, one ticket, steps of equal counts, and nothing else."""

    def capabilities(self) -> RunnerCapabilities:
        return RunnerCapabilities(kv_layouts=("slot",), formats=("F32",), ragged_steps=False)

    def check(self, step: Step, plan: KVPlan, *, vocab_size: int) -> None:
        super().check(step, plan, vocab_size=vocab_size)
        if len(set(np.diff(step.q_start).tolist())) > 1:
            raise Fatal("this runner declares no ragged steps")


class LargeBlocks(ReplayRunner):
    """Paged only, in blocks longer than the kit's usual sequences."""

    def capabilities(self) -> RunnerCapabilities:
        return msgspec.structs.replace(CAPABILITIES, kv_layouts=("paged",), async_depth=1)

    def plan_memory(self, limit: KVLimit) -> KVPlan:
        spec = self.loaded().model.spec
        if limit.layout != "paged":
            raise Fatal("this runner declares no slots")
        self.context = context_of(spec, limit)
        blocks_each = -(-self.context // BLOCK_TOKENS)
        bytes_per_block = BLOCK_TOKENS * spec.kv_bytes_per_token
        num_blocks = min(limit.max_sequences * blocks_each, limit.max_bytes // bytes_per_block)
        if num_blocks < blocks_each:
            raise CapacityExceeded(f"{limit.max_bytes} bytes are less than {blocks_each * bytes_per_block}")
        self.plan = KVPlan(
            layout="paged", num_blocks=num_blocks, block_tokens=BLOCK_TOKENS, bytes_per_block=bytes_per_block
        )
        self.resume()
        return self.plan
