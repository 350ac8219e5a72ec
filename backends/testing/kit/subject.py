"""A runner under test: loaded, planned, and driven as an engine drives it, in either KV layout."""

from __future__ import annotations

from itertools import accumulate

import msgspec
import numpy as np

from backends.api import F32, I32, KVLimit, KVPlan, ModelInfo, Runner, Step, StepResult, Ticket
from backends.steps import flat_indices
from backends.testing.kit import contract
from backends.testing.kit.expect import expect, expect_rows
from backends.testing.kit.reference import Reference


class KitSequence:
    """The kit's record of one sequence: the tokens that have KV, and its blocks."""

    def __init__(self, reference: Reference, *, lora: int = -1) -> None:
        self.reference = reference
        self.lora = lora
        self.tokens: list[int] = []
        self.blocks: list[int] = []
        """Slot, or blocks in order."""

    def __len__(self) -> int:
        return len(self.tokens)


class KitPart(msgspec.Struct, frozen=True):
    """New tokens of a sequence in a step; logits of the last `rows` of them are requested."""

    sequence: KitSequence
    tokens: list[int]
    rows: int = 1


class KitSubject:
    """Hands out slots and blocks in an order that no runner should rely on, and takes them back."""

    def __init__(self, runner: Runner, reference: Reference, info: ModelInfo, *, tolerance: float) -> None:
        self.runner = runner
        self.reference = reference
        self.info = info
        self.tolerance = tolerance
        self.plan: KVPlan
        self.context = 0
        """Most tokens of one sequence."""
        self._free: list[int] = []

    @property
    def is_paged(self) -> bool:
        return self.plan.layout == "paged"

    def plan_memory(self, limit: KVLimit) -> None:
        """Forget every sequence and start with the KV memory that the runner plans."""
        self.plan = self.runner.plan_memory(limit)
        longest = min(limit.max_context, self.reference.model.spec.max_context)
        self.context = longest if self.is_paged else min(longest, self.plan.block_tokens)
        self.forget()

    def forget(self) -> None:
        """All KV is free again."""
        order = np.random.default_rng(5).permutation(self.plan.num_blocks)
        self._free = [int(block) for block in order]

    def open(self, *, lora: int = -1, reference: Reference | None = None) -> KitSequence:
        sequence = KitSequence(reference or self.reference, lora=lora)
        self._reserve(sequence, 1)
        return sequence

    def close(self, sequence: KitSequence) -> None:
        """Free a sequence; its KV is the first to be used again."""
        self._free = sequence.blocks + self._free
        sequence.blocks, sequence.tokens = [], []

    def rewind(self, sequence: KitSequence, length: int) -> None:
        """Keep the first `length` tokens, as after a rejected draft."""
        del sequence.tokens[length:]
        if not self.is_paged:
            self.runner.truncate(sequence.blocks[0], length)

    def share(self, sequence: KitSequence, num_blocks: int) -> KitSequence:
        """Paged: another sequence that begins with the first blocks of this one."""
        sharer = KitSequence(sequence.reference, lora=sequence.lora)
        sharer.blocks = sequence.blocks[:num_blocks]
        sharer.tokens = sequence.tokens[: num_blocks * self.plan.block_tokens]
        return sharer

    def fork(self, sequence: KitSequence, *, num_tokens: int | None = None) -> KitSequence:
        """A copy with KV of its own, made with `copy_blocks`; in a slot, perhaps of the first tokens alone."""
        copy = KitSequence(sequence.reference, lora=sequence.lora)
        self._reserve(copy, len(sequence))
        self.runner.copy_blocks(list(zip(sequence.blocks, copy.blocks, strict=False)), num_tokens)
        copy.tokens = sequence.tokens[:num_tokens]
        return copy

    def step(self, *parts: KitPart) -> Step:
        """The step that brings these parts; changes nothing but reserves blocks."""
        lengths = [len(part.sequence) + len(part.tokens) for part in parts]
        for part, length in zip(parts, lengths, strict=True):
            self._reserve(part.sequence, length)
        ends = list(accumulate(len(part.tokens) for part in parts))
        positions = [np.arange(len(part.sequence), length) for part, length in zip(parts, lengths, strict=True)]
        rows = [np.arange(end - part.rows, end) for part, end in zip(parts, ends, strict=True)]
        step = Step(
            token_ids=np.concatenate([np.array(part.tokens, np.int64) for part in parts]),
            positions=np.concatenate(positions).astype(np.int32),
            q_start=np.array([0, *ends], np.int32),
            kv_len=np.array(lengths, np.int32),
            slot=np.array([0 if self.is_paged else part.sequence.blocks[0] for part in parts], np.int32),
            logit_rows=np.concatenate(rows).astype(np.int32),
            lora=np.array([part.sequence.lora for part in parts], np.int32),
        )
        return self._paged(step, parts) if self.is_paged else step

    def submit(self, *parts: KitPart) -> Ticket:
        ticket = self.runner.submit(self.step(*parts))
        self.advance(*parts)
        return ticket

    def advance(self, *parts: KitPart) -> None:
        """The tokens of these parts have KV now."""
        for part in parts:
            part.sequence.tokens.extend(part.tokens)

    def run(self, *parts: KitPart) -> F32:
        """Submit and collect; a copy of the logits, float32 `[R, vocab]`."""
        return self.collect(self.submit(*parts), num_rows=sum(part.rows for part in parts))

    def collect(self, ticket: Ticket, *, num_rows: int) -> F32:
        result = self.runner.collect(ticket)
        shape = (num_rows, self.info.vocab_size)
        expect(
            isinstance(result, StepResult) and result.logits.dtype == np.float32 and result.logits.shape == shape,
            expected=f"float32 {list(shape)} logits",
            found=f"{result.logits.dtype} {list(result.logits.shape)}" if hasattr(result, "logits") else result,
            contract=contract.LOGITS,
        )
        return result.logits.copy()

    def confirm(self, *parts: KitPart, what: str, sentence: str = contract.LOGITS) -> None:
        """Run the step and compare every row with the reference."""
        self.compare(self.run(*parts), *parts, what=what, sentence=sentence)

    def compare(self, logits: F32, *parts: KitPart, what: str, sentence: str = contract.LOGITS) -> None:
        """Compare the logits of a step that has run with the reference."""
        expect_rows(logits, expected_rows(*parts), self.tolerance, what=what, contract=sentence)

    def _reserve(self, sequence: KitSequence, length: int) -> None:
        wanted = -(-length // self.plan.block_tokens) if self.is_paged else 1
        while len(sequence.blocks) < wanted:
            sequence.blocks.append(self._free.pop(0))

    def _paged(self, step: Step, parts: tuple[KitPart, ...]) -> Step:
        """Tables are wider than needed, and what pads them names a block that is not theirs."""
        width = max(len(part.sequence.blocks) for part in parts) + 2
        table: I32 = np.full((len(parts), width), self.plan.num_blocks - 1, np.int32)
        for row, part in zip(table, parts, strict=True):
            row[: len(part.sequence.blocks)] = part.sequence.blocks
        slot_map = flat_indices(step, table, self.plan.block_tokens)
        return msgspec.structs.replace(step, block_table=table, slot_map=slot_map)


def expected_rows(*parts: KitPart) -> F32:
    """Logits of parts whose tokens are already among those of their sequences: float32 `[R, vocab]`."""
    return np.concatenate([part.sequence.reference.rows(part.sequence.tokens, part.rows) for part in parts])
