"""Loops and sequences over the fake runner, small enough to reason about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from backends.api import AdapterWeights, KVLimit, LoadableModel
from backends.generation import Sampling, Share
from backends.kv import BLOCK_TOKENS
from backends.models.spec import ModelSpec
from backends.testing.fake import FakeFaults, FakeRunner
from gateway.batching.admission import AdmissionOrder, FirstComeFirstServed
from gateway.batching.kv.blocks import BlockAllocator
from gateway.batching.kv.prefix_index import PrefixIndex
from gateway.batching.kv.slots import SlotAllocator
from gateway.batching.loop import Loop
from gateway.batching.messages import Add, Output
from gateway.batching.scheduler import StepLimits
from gateway.batching.sequence import Sequence

VOCAB = 64
GREEDY = Sampling(temperature=0.0)


def make_spec(*, vocab_size: int = VOCAB, max_context: int = 256) -> ModelSpec:
    return ModelSpec(
        family="fake",
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        ffn_size=8,
        vocab_size=vocab_size,
        max_context=max_context,
        eos_token_ids=(vocab_size - 1,),
    )


def make_runner(
    faults: FakeFaults | None = None,
    *,
    num_slots: int = 4,
    max_context: int = 256,
    kind: type[FakeRunner] = FakeRunner,
) -> FakeRunner:
    runner = kind(faults)
    runner.load(LoadableModel(spec=make_spec(max_context=max_context), tensors={}), lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 30, max_sequences=num_slots, max_context=max_context))
    return runner


def make_loop(
    faults: FakeFaults | None = None,
    *,
    num_slots: int = 4,
    max_step_tokens: int = 16,
    max_context: int = 256,
    max_logit_rows: int = 8,
    runner: FakeRunner | None = None,
    prefixes: PrefixIndex | None = None,
    num_spare: int = 0,
) -> Loop:
    """Make a loop; `prefixes` and spare slots give it a prefix cache that is kept while all sequences run."""
    return Loop(
        runner or make_runner(faults, num_slots=num_slots + num_spare, max_context=max_context),
        limits=StepLimits(
            max_sequences=num_slots,
            max_step_tokens=max_step_tokens,
            max_context=max_context,
            max_logit_rows=max_logit_rows,
        ),
        kv=SlotAllocator(num_slots=num_slots + num_spare, slot_tokens=max_context, prefixes=prefixes),
        order=FirstComeFirstServed(),
        vocab_size=VOCAB,
    )


def make_paged_loop(
    runner: FakeRunner | None = None,
    faults: FakeFaults | None = None,
    *,
    num_blocks: int = 16,
    max_sequences: int = 4,
    max_step_tokens: int = 16,
    order: AdmissionOrder | None = None,
    has_prefixes: bool = True,
    adapters: Mapping[str, AdapterWeights] | None = None,
) -> Loop:
    """Loop over blocks of 16 tokens, as many as four sequences of 64 tokens need."""
    runner = runner or FakeRunner(faults)
    context = num_blocks * BLOCK_TOKENS
    runner.load(LoadableModel(spec=make_spec(max_context=context), tensors={}), lambda _: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 30, max_sequences=1, max_context=context, layout="paged"))
    return Loop(
        runner,
        limits=StepLimits(
            max_sequences=max_sequences, max_step_tokens=max_step_tokens, max_context=context, max_logit_rows=8
        ),
        kv=BlockAllocator(num_blocks=num_blocks, block_tokens=BLOCK_TOKENS, has_prefixes=has_prefixes),
        order=order or FirstComeFirstServed(),
        vocab_size=VOCAB,
        adapters=adapters,
    )


def make_add(
    number: int,
    *,
    prompt: Iterable[int] | None = None,
    max_tokens: int = 8,
    sampling: Sampling = GREEDY,
    stop_token_ids: tuple[int, ...] = (),
    prompt_logprobs: int | None = None,
    tenant: str = "default",
) -> Add:
    """Add message; without a prompt, one of 1 to 40 tokens that depends on the number alone."""
    draw = np.random.default_rng(number)
    chosen = draw.integers(0, VOCAB, size=draw.integers(1, 41)).tolist() if prompt is None else prompt
    return Add(
        id=number,
        token_ids=tuple(chosen),
        max_tokens=max_tokens,
        sampling=sampling,
        seed=number,
        stop_token_ids=stop_token_ids,
        prompt_logprobs=prompt_logprobs,
        share=Share(tenant=tenant),
    )


def make_sequence(number: int, *, sampling: Sampling = GREEDY, vocab_size: int = VOCAB) -> Sequence:
    return Sequence(make_add(number, sampling=sampling), arrival=number, vocab_size=vocab_size)


def run_all(loop: Loop, *, most_steps: int = 10_000) -> list[Output]:
    """Step until nothing is left to do."""
    outputs: list[Output] = []
    for _ in range(most_steps):
        if not loop.has_work:
            loop.check_integrity()
            return outputs
        outputs += loop.step()
    raise AssertionError(f"still working after {most_steps} steps")


def tokens_of(outputs: Iterable[Output], number: int) -> list[int]:
    return [token for output in outputs if output.id == number for token in output.token_ids]


def solo_tokens(add: Add, *, max_step_tokens: int = 256) -> list[int]:
    """Tokens that a sequence gets with an engine of its own."""
    loop = make_loop(num_slots=1, max_step_tokens=max_step_tokens)
    assert loop.add(add) is None
    return tokens_of(run_all(loop), add.id)
