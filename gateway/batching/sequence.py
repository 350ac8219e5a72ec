"""State of one completion in the engine: its known tokens, and how many of them have keys and values."""

from __future__ import annotations

import time

from gateway.batching.messages import Add, Logprob
from gateway.batching.penalties import Adjustments, are_needed

URGENT_WITHIN_S = 10.0
"""Seconds; a deadline further away does not change the order of admission."""


class Sequence:
    """Mutable state of one `Add`; owned by the loop.

    ```
    token_ids   [ prompt ............ | generated ...... ] coming
                [0, computed)          have KV
                [computed, planned)    get KV in steps that were submitted
                [planned, expected)    go into the next steps; the last one's logits give the next token
    ```
    """

    def __init__(self, add: Add, *, arrival: int, vocab_size: int) -> None:
        self.id = add.id
        self.share = add.share
        self.prefix_scope = add.share.prefix_scope or f"tenant {add.share.tenant}"
        """Sequences with the same value share cached prefixes."""
        self.adapter = add.adapter
        self.arrival = arrival
        self.urgency = _urgency(add.deadline_s)
        """0 to 1, fixed on arrival: if it grew while waiting, every late one would become the most urgent."""
        self.arrived_s = time.monotonic()
        self.queued_s = 0.0
        """Seconds from its arrival until it was first admitted."""
        self.sampling = add.sampling
        self.seed = add.seed
        self.max_tokens = add.max_tokens
        self.only_scores = add.max_tokens == 0
        self.stop_token_ids = frozenset(add.stop_token_ids)
        self.token_ids = list(add.token_ids)
        self.num_prompt = len(self.token_ids)
        self.num_computed = 0
        self.num_planned = 0
        """Tokens that have KV once all submitted steps are done."""
        self.num_in_flight = 0
        """Tokens that submitted steps will produce and that are not known yet."""
        self.num_cached = 0
        """Prompt tokens whose KV was cached when it was first admitted."""
        self.chain: list[bytes] = []
        """Hashes of its first blocks, for `gateway.batching.kv.prefix_index` alone."""
        self.num_cached_blocks = 0
        """Number of its blocks that others may find; used by `gateway.batching.kv.blocks` alone."""
        self.num_charged = 0
        """Tokens charged to its tenant; after a preemption more than are computed."""
        self.num_preemptions = 0
        self.prompt_logprobs = add.prompt_logprobs
        self.prompt_scores: list[Logprob] = []
        """Scores of prompt tokens from the second on, as far as computed; kept until the first output takes them."""
        self.num_lonely_failures = 0
        """Steps that ran out of memory with this sequence alone in the batch."""
        self.adjustments = (
            Adjustments(add.sampling, prompt=add.token_ids, vocab_size=vocab_size) if are_needed(add.sampling) else None
        )

    @property
    def num_known(self) -> int:
        return len(self.token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Number of tokens left for later steps; 0 if the submitted ones will be its end."""
        num_expected = len(self.token_ids) + self.num_in_flight
        if self.num_in_flight and num_expected >= self.max_known:
            return 0
        return num_expected - self.num_planned

    @property
    def max_known(self) -> int:
        """Most tokens it may have, prompt and output together."""
        return self.num_prompt + self.max_tokens

    @property
    def is_scoring(self) -> bool:
        """True while log-probabilities of its prompt are still to be computed."""
        return self.prompt_logprobs is not None and len(self.prompt_scores) < self.num_prompt - 1

    def take_scores(self) -> tuple[Logprob, ...]:
        """Return all scores of the prompt, once."""
        scores, self.prompt_logprobs, self.prompt_scores = tuple(self.prompt_scores), None, []
        return scores

    def append(self, token_id: int) -> None:
        """Append a token that a step produced."""
        self.token_ids.append(token_id)
        self.num_in_flight = max(0, self.num_in_flight - 1)
        if self.adjustments is not None:
            self.adjustments.count(token_id)

    def begin(self, num_cached: int) -> None:
        """Note that it was admitted, and that `num_cached` of its tokens have KV already."""
        self.num_computed = self.num_planned = num_cached
        if self.num_preemptions == 0:
            self.num_cached = num_cached

    def rewind(self) -> None:
        """Drop its KV; all known tokens are computed again, and those in flight are produced again."""
        self.num_computed = self.num_planned = self.num_in_flight = 0
        self.num_preemptions += 1

    def take_back(self) -> None:
        """Forget submitted steps; none will produce tokens."""
        self.num_planned, self.num_in_flight = self.num_computed, 0

    def finish_reason(self, *, max_context: int) -> str | None:
        """Finish reason if the last appended token was the last one, or None. Stop tokens win over limits."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        if self.num_generated >= self.max_tokens or self.num_known >= max_context:
            return "length"
        return None


def _urgency(deadline_s: float | None) -> float:
    """1 if the deadline is now, 0 if it is far away or there is none."""
    if deadline_s is None:
        return 0.0
    return min(max(1.0 - deadline_s / URGENT_WITHIN_S, 0.0), 1.0)
