"""The heart of the engine: plan, execute, commit."""

from __future__ import annotations

import math
import time

from backends.api import F32, Runner, Step, StepResult
from backends.errors import CapacityExceeded, Fatal, Retryable
from gateway.batching.admission import AdmissionOrder
from gateway.batching.assembly import assemble
from gateway.batching.blocks import KVRooms
from gateway.batching.device_sampling import picked, row_sampling
from gateway.batching.sampling import NOT_FINITE, Sampled, sample
from gateway.batching.scheduler import Chunk, Limits, Scheduler
from gateway.batching.scoring import take_scores
from gateway.batching.sequence import Sequence
from gateway.engine.messages import Add, EngineStats, Output

_MAX_LONELY_FAILURES = 3


class Loop:
    """Turns `Add`s into `Output`s, one step of the runner at a time. Every `Add` gets exactly one last `Output`."""

    def __init__(
        self, runner: Runner, *, limits: Limits, rooms: KVRooms, order: AdmissionOrder, vocab_size: int
    ) -> None:
        self._runner = runner
        capabilities = runner.capabilities()
        # Logits that are on the host already are sampled faster here: measured, see docs/why.md.
        self._runner_samples = capabilities.device_sampling and capabilities.async_depth > 1
        self._limits = limits
        self._rooms = rooms
        self._vocab_size = vocab_size
        self._scheduler = Scheduler(limits, rooms, order)
        self._num_arrived = 0
        self._num_steps = 0
        self._num_batched = 0
        self._num_prefilled = 0
        self._num_generated = 0
        self._step_time_s = 0.0

    @property
    def has_work(self) -> bool:
        return self._scheduler.has_work

    def step(self) -> list[Output]:
        """Run one step and return what it produced, possibly nothing. Call it only while `has_work`.

        Running out of memory shrinks the batch and is seen by nobody else. Raises `Fatal` when the runner is unusable.
        """
        try:
            plan = self._scheduler.plan()
            return self._commit(plan, self._execute(plan))
        except CapacityExceeded as error:
            return self._shrink(error)

    def add(self, add: Add) -> Output | None:
        """Let a sequence wait for its turn, or return the `Output` that refuses it."""
        problem = self._problem_of(add)
        if problem is not None:
            return Output(add.id, (), error=f"invalid_request: {problem}")
        self._num_arrived += 1
        self._scheduler.add(Sequence(add, arrival=self._num_arrived, vocab_size=self._vocab_size))
        return None

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence, its room is free at once. False if it is not here (it may just have ended)."""
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
        )

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if a room is lost, doubled or held by nobody."""
        self._scheduler.check_integrity()

    def _execute(self, plan: list[Chunk]) -> list[Sampled]:
        """What the chunks that sample get, in plan order. A failed step left KV only behind what is computed."""
        sampling = row_sampling(plan) if self._runner_samples else None
        step = assemble(plan, self._rooms, sampling)
        started = time.perf_counter()
        try:
            self._reuse()
            result = self._run(step)
        except Retryable:
            result = self._run_again(step)
        finally:
            self._step_time_s += time.perf_counter() - started
        if sampling is not None:
            return picked(result, num_rows=len(step.logit_rows), vocab_size=self._vocab_size)
        logits = take_scores(plan, self._checked(result.logits, step))
        return sample(logits, [chunk.sequence for chunk in plan if chunk.samples]) if len(logits) else []

    def _reuse(self) -> None:
        """Bring what the prefix cache had to where the admitted sequences are."""
        for reuse in self._rooms.take_reuses():
            try:
                if reuse.source != reuse.destination:
                    self._runner.copy_blocks([(reuse.source, reuse.destination)], reuse.num_tokens)
                self._runner.truncate(reuse.destination, reuse.num_tokens)
            except (CapacityExceeded, Retryable) as error:
                raise Fatal(f"cached keys and values could not be copied: {error}") from error

    def _run(self, step: Step) -> StepResult:
        return self._runner.collect(self._runner.submit(step))

    def _run_again(self, step: Step) -> StepResult:
        try:
            return self._run(step)
        except Retryable as error:
            raise Fatal(f"the step failed twice: {error}") from error

    def _checked(self, logits: F32, step: Step) -> F32:
        wanted = (len(step.logit_rows), self._vocab_size)
        if logits.shape != wanted:
            raise Fatal(f"the runner returned logits of shape {logits.shape}, expected {wanted}")
        return logits

    def _commit(self, plan: list[Chunk], sampled: list[Sampled]) -> list[Output]:
        # A chunk samples or not by what is known now; appending changes that, so decide first.
        sampling = [chunk.sequence for chunk in plan if chunk.samples]
        scored = [chunk.sequence for chunk in plan if chunk.ends_scoring]
        for chunk in plan:
            self._scheduler.computed(chunk)
            self._num_prefilled += max(0, min(chunk.end, chunk.sequence.num_prompt) - chunk.start)
        self._num_steps += 1
        self._num_batched += len(plan)
        outputs = [self._append(sequence, token) for sequence, token in zip(sampling, sampled, strict=True)]
        return outputs + [self._end_scoring(sequence) for sequence in scored]

    def _append(self, sequence: Sequence, sampled: Sampled) -> Output:
        if sampled.error is not None:
            return self._fail(sequence, sampled.error)
        sequence.append(sampled.token_id)
        self._num_generated += 1
        scores = sequence.take_scores()
        if any(math.isnan(score.logprob) for score in scores):
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

    def _fail(self, sequence: Sequence, error: str) -> Output:
        """Its keys and values may be what is wrong, so nobody gets them."""
        self._scheduler.finish(sequence, is_sound=False)
        return Output(sequence.id, (), error=error)

    def _shrink(self, error: CapacityExceeded) -> list[Output]:
        """Preempt one. One that fails alone again and again gets the error."""
        was_alone = self._scheduler.num_running == 1
        victim = self._scheduler.shrink()
        if not was_alone:
            return []
        victim.num_lonely_failures += 1
        if victim.num_lonely_failures < _MAX_LONELY_FAILURES:
            return []
        self._scheduler.remove(victim.id)
        return [Output(victim.id, (), error=f"engine_overloaded: {error}")]

    def _problem_of(self, add: Add) -> str | None:
        if not add.token_ids:
            return "the prompt has no tokens"
        if min(add.token_ids) < 0 or max(add.token_ids) >= self._vocab_size:
            return f"token ids must lie within 0 to {self._vocab_size - 1}"
        if any(not 0 <= token_id < self._vocab_size for token_id in add.sampling.logit_bias):
            return f"logit_bias ids must lie within 0 to {self._vocab_size - 1}"
        num_tokens = len(add.token_ids) + add.max_tokens
        is_too_short = add.max_tokens < (1 if add.prompt_logprobs is None else 0)
        if is_too_short or num_tokens > self._limits.max_context or not self._rooms.can_ever_reserve(num_tokens):
            return f"{len(add.token_ids)} prompt and {add.max_tokens} new tokens exceed {self._limits.max_context}"
        return None
