"""The heart of the engine: plan, execute, commit."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping

import msgspec

from backends.api import F32, AdapterWeights, Runner, StepResult, Ticket
from backends.errors import CapacityExceeded, Fatal, Retryable
from gateway.batching.adapter_slots import AdapterSlots
from gateway.batching.admission import AdmissionOrder
from gateway.batching.kv.allocator import KVAllocator
from gateway.batching.messages import Add, EngineStats, Failure, Output
from gateway.batching.prefill_budget import PrefillBudget
from gateway.batching.sampling.on_device import picked, row_sampling
from gateway.batching.sampling.prompt_logprobs import take_scores
from gateway.batching.sampling.sample import NOT_FINITE, Sampled, sample
from gateway.batching.scheduler import Chunk, Scheduler, StepLimits
from gateway.batching.sequence import Sequence
from gateway.batching.step import assemble

_MAX_LONELY_FAILURES = 3


class InFlightStep(msgspec.Struct, frozen=True, kw_only=True):
    """A submitted step and what it was planned for. `started` is a time of `time.perf_counter`."""

    chunks: list[Chunk]
    ticket: Ticket
    num_rows: int
    started: float
    has_picked: bool
    """True if the runner picks the tokens."""

    @property
    def rows(self) -> dict[int, int]:
        """Row of each sequence among those that pick tokens, by sequence id."""
        sampling = [chunk.sequence.id for chunk in self.chunks if chunk.samples]
        return {sequence_id: row for row, sequence_id in enumerate(sampling)}


class Loop:
    """Turns `Add`s into `Output`s, one step of the runner at a time. Every `Add` gets exactly one last `Output`."""

    def __init__(
        self,
        runner: Runner,
        *,
        limits: StepLimits,
        kv: KVAllocator,
        order: AdmissionOrder,
        vocab_size: int,
        max_slowdown: float = 0.0,
        adapters: Mapping[str, AdapterWeights] | None = None,
    ) -> None:
        """`max_slowdown` as in `PrefillBudget`; `adapters` are all that sequences may name, loaded or not."""
        self._runner = runner
        capabilities = runner.capabilities()
        # Logits that are on the host already are sampled faster here: measured, see docs/why.md.
        self._runner_samples = capabilities.device_sampling and capabilities.async_depth > 1
        # Between steps, slots are copied and truncated and adapters replaced, so no step may be in flight then.
        self._may_be_ahead = self._runner_samples and kv.block_tokens is not None and not adapters
        self._in_flight: deque[InFlightStep] = deque()
        self._limits = limits
        self._kv = kv
        self._vocab_size = vocab_size
        self._prefill_budget = PrefillBudget(max_slowdown=max_slowdown, most_tokens=limits.max_step_tokens)
        self._adapters = dict(adapters or {})
        self._adapter_slots = AdapterSlots(capabilities.lora_slots)
        self._scheduler = Scheduler(limits, kv, order, self._prefill_budget, self._adapter_slots)
        self._num_arrived = 0
        self._num_steps = 0
        self._num_batched = 0
        self._num_prefilled = 0
        self._num_generated = 0
        self._num_failures = 0
        """Consecutive steps that failed and are to be retried."""
        self._step_time_s = 0.0
        self._collected_at = 0.0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work or bool(self._in_flight)

    def step(self) -> list[Output]:
        """Submit the next step and commit those that no further step can follow; returns their outputs, possibly none.

        Call it only while `has_work`. Running out of memory shrinks the batch and is not visible to callers. Raises
        `Fatal` when the runner is unusable.
        """
        outputs: list[Output] = []
        try:
            chunks = self._scheduler.plan()
            num_ahead = self._execute(chunks)
            while len(self._in_flight) > num_ahead:
                outputs += self._commit(self._in_flight.popleft())
        except CapacityExceeded as error:
            self._take_back()
            outputs += self._shrink(error)
        except Retryable as error:
            self._take_back()
            self._note_failure(error)
        return outputs

    def add(self, add: Add) -> Output | None:
        """Queue a sequence, or return the `Output` that rejects it."""
        problem = self._problem_of(add)
        if problem is not None:
            return Output(add.id, (), error=Failure("invalid_request", problem))
        self._num_arrived += 1
        self._scheduler.add(Sequence(add, arrival=self._num_arrived, vocab_size=self._vocab_size))
        return None

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence and free its memory. False if it is not here (it may just have ended)."""
        return self._scheduler.remove(sequence_id)

    def stats(self) -> EngineStats:
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            steps=self._num_steps,
            batched_sequences=self._num_batched,
            prefill_tokens=self._num_prefilled,
            generated_tokens=self._num_generated,
            kv_tokens=self._scheduler.num_kv_tokens,
            step_time_s=self._step_time_s,
            preempted=self._scheduler.num_preempted,
            cached_tokens=self._scheduler.num_cached_tokens,
            adapter_hits=self._adapter_slots.num_hits,
            adapter_loads=self._adapter_slots.num_loads,
        )

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if memory is lost, allocated twice or without an owner."""
        self._scheduler.check_integrity()

    def _execute(self, chunks: list[Chunk]) -> int:
        """Submit a step. Returns how many submitted steps may stay in flight while the next one is planned: 0 or 1.

        1 where sampled tokens stay on the device, so that the next step can be submitted behind it.
        """
        if not chunks:  # all remaining work has been submitted already
            return 0
        sampling = row_sampling(chunks) if self._runner_samples else None
        rows_before = self._in_flight[-1].rows if self._in_flight else None
        step = assemble(chunks, self._kv, self._adapter_slots, sampling, rows_before=rows_before)
        started = time.perf_counter()
        self._place_adapters()
        self._copy_prefixes()
        ticket = self._runner.submit(step)
        self._in_flight.append(
            InFlightStep(
                chunks=chunks,
                ticket=ticket,
                num_rows=len(step.logit_rows),
                started=started,
                has_picked=sampling is not None,
            )
        )
        return 1 if sampling is not None and self._may_be_ahead else 0

    def _commit(self, step: InFlightStep) -> list[Output]:
        """Wait for a step, and append its tokens to its sequences. A failed step left KV only behind `computed`."""
        result = self._runner.collect(step.ticket)
        self._note_time(step)
        self._num_failures = 0
        tokens = iter(self._sampled(step, result))
        pairs = [(chunk, next(tokens) if chunk.samples else None) for chunk in step.chunks]
        current = [(chunk, token) for chunk, token in pairs if self._scheduler.is_current(chunk)]
        self._num_steps += 1
        self._num_batched += len(current)
        outputs = [self._commit_one(chunk, token) for chunk, token in current]
        return [output for output in outputs if output is not None]

    def _sampled(self, step: InFlightStep, result: StepResult) -> list[Sampled]:
        """Tokens for the chunks that sample, in plan order."""
        if step.has_picked:
            return picked(result, num_rows=step.num_rows, vocab_size=self._vocab_size)
        logits = take_scores(step.chunks, self._checked(result.logits, step.num_rows))
        return sample(logits, [chunk.sequence for chunk in step.chunks if chunk.samples]) if len(logits) else []

    def _note_time(self, step: InFlightStep) -> None:
        """Record the duration of a step; one behind another counts from the end of that one."""
        now = time.perf_counter()
        seconds = now - max(step.started, self._collected_at)
        self._collected_at = now
        self._step_time_s += seconds
        num_prompt_tokens = sum(chunk.num_prompt_tokens for chunk in step.chunks)
        num_decoding = sum(chunk.num_tokens for chunk in step.chunks) - num_prompt_tokens
        self._prefill_budget.note(seconds, num_decoding=num_decoding, num_prompt_tokens=num_prompt_tokens)

    def _copy_prefixes(self) -> None:
        """Copy cached prefixes to the slots of admitted sequences."""
        for copy in self._kv.take_copies():
            try:
                if copy.source != copy.destination:
                    self._runner.copy_blocks([(copy.source, copy.destination)], copy.num_tokens)
                self._runner.truncate(copy.destination, copy.num_tokens)
            except (CapacityExceeded, Retryable) as error:
                raise Fatal(f"cached keys and values could not be copied: {error}") from error

    def _place_adapters(self) -> None:
        """Load adapters of admitted sequences into their slots."""
        for placement in self._adapter_slots.take_placements():
            try:
                self._runner.put_adapter(placement.slot, self._adapters[placement.adapter])
            except (CapacityExceeded, Retryable) as error:
                raise Fatal(f"adapter {placement.adapter} could not be placed: {error}") from error

    def _take_back(self) -> None:
        """Discard the steps behind a failed one; all are planned again."""
        for step in self._in_flight:
            step.ticket.cancel()
        self._in_flight.clear()
        self._scheduler.take_back()

    def _note_failure(self, error: Retryable) -> None:
        self._num_failures += 1
        if self._num_failures > 1:
            raise Fatal(f"the step failed twice: {error}") from error

    def _checked(self, logits: F32, num_rows: int) -> F32:
        wanted = (num_rows, self._vocab_size)
        if logits.shape != wanted:
            raise Fatal(f"the runner returned logits of shape {logits.shape}, expected {wanted}")
        return logits

    def _commit_one(self, chunk: Chunk, sampled: Sampled | None) -> Output | None:
        self._scheduler.computed(chunk)
        self._num_prefilled += chunk.num_prompt_tokens
        if chunk.ends_scoring:
            return self._end_scoring(chunk.sequence)
        return None if sampled is None else self._append(chunk.sequence, sampled)

    def _append(self, sequence: Sequence, sampled: Sampled) -> Output:
        if sampled.error is not None:
            return self._fail(sequence, sampled.error)
        sequence.append(sampled.token_id)
        self._num_generated += 1
        scores = () if sequence.prompt_logprobs is None else sequence.take_scores()
        if scores and any(math.isnan(score.logprob) for score in scores):
            return self._fail(sequence, NOT_FINITE)
        reason = sequence.finish_reason(max_context=self._limits.max_context)
        if reason is not None:
            self._scheduler.finish(sequence)
        logprobs = () if sampled.logprob is None else (sampled.logprob,)
        return Output(
            sequence.id,
            (sampled.token_id,),
            logprobs,
            reason,
            cached_tokens=sequence.num_cached,
            prompt_logprobs=scores,
            queued_s=sequence.queued_s if sequence.num_generated == 1 else 0.0,
        )

    def _end_scoring(self, sequence: Sequence) -> Output:
        scores = sequence.take_scores()
        if any(math.isnan(score.logprob) for score in scores):
            return self._fail(sequence, NOT_FINITE)
        self._scheduler.finish(sequence)
        return Output(sequence.id, (), finish_reason="length", prompt_logprobs=scores, queued_s=sequence.queued_s)

    def _fail(self, sequence: Sequence, error: Failure) -> Output:
        """End a sequence with an error; its keys and values may be the cause, so they are not cached."""
        self._scheduler.finish(sequence, is_sound=False)
        return Output(sequence.id, (), error=error)

    def _shrink(self, error: CapacityExceeded) -> list[Output]:
        """Preempt one sequence of the step, if any still runs. One that fails alone repeatedly gets the error."""
        if not self._scheduler.num_running:  # all have ended since the step was submitted
            return []
        was_alone = self._scheduler.num_running == 1
        victim = self._scheduler.shrink()
        if not was_alone:
            return []
        victim.num_lonely_failures += 1
        if victim.num_lonely_failures < _MAX_LONELY_FAILURES:
            return []
        self._scheduler.remove(victim.id)
        return [Output(victim.id, (), error=Failure("engine_overloaded", str(error)))]

    def _problem_of(self, add: Add) -> str | None:
        if not add.token_ids:
            return "the prompt has no tokens"
        if min(add.token_ids) < 0 or max(add.token_ids) >= self._vocab_size:
            return f"token ids must lie within 0 to {self._vocab_size - 1}"
        if add.adapter is not None and add.adapter not in self._adapters:
            return f"this engine has no adapter {add.adapter}"
        if any(not 0 <= token_id < self._vocab_size for token_id in add.sampling.logit_bias):
            return f"logit_bias ids must lie within 0 to {self._vocab_size - 1}"
        num_tokens = len(add.token_ids) + add.max_tokens
        is_too_short = add.max_tokens < (1 if add.prompt_logprobs is None else 0)
        if is_too_short or num_tokens > self._limits.max_context or not self._kv.can_ever_allocate(num_tokens):
            return f"{len(add.token_ids)} prompt and {add.max_tokens} new tokens exceed {self._limits.max_context}"
        return None
