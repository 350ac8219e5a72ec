"""One completion inside the engine: the tokens it knows, and how many of them have keys and values."""

from __future__ import annotations

import time

from gateway.batching.messages import Add, Logprob
from gateway.batching.penalties import Adjustments, are_needed

URGENT_WITHIN_S = 10.0
"""A deadline that is farther away is none for the order of admission."""


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
        """Who may share what is computed for its tokens."""
        self.adapter = add.adapter
        self.arrival = arrival
        self.urgency = _urgency(add.deadline_s)
        """0 to 1, decided when it comes: a lead that grew while it waits would make every late one the most urgent."""
        self.arrived_s = time.monotonic()
        self.queued_s = 0.0
        """From its arrival until it was first admitted."""
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
        """Tokens that submitted steps will give and nobody knows yet."""
        self.num_cached = 0
        """Tokens of the prompt whose KV was there already when it was first admitted."""
        self.chain: list[bytes] = []
        """Hashes of its first blocks, for `gateway.batching.kv.prefix_index` alone."""
        self.num_cached_blocks = 0
        """Of its blocks, those that others may find; for `gateway.batching.kv.blocks` alone."""
        self.num_charged = 0
        """Tokens that its tenant was charged for; after a preemption more than are computed."""
        self.num_preemptions = 0
        self.prompt_logprobs = add.prompt_logprobs
        self.prompt_scores: list[Logprob] = []
        """Of prompt tokens from the second on, as far as computed; kept until the first output takes them along."""
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
        """Tokens for the steps to come; none if what is submitted will be its end."""
        num_expected = len(self.token_ids) + self.num_in_flight
        if self.num_in_flight and num_expected >= self.max_known:
            return 0
        return num_expected - self.num_planned

    @property
    def max_known(self) -> int:
        """Tokens it may come to hold, prompt and output together."""
        return self.num_prompt + self.max_tokens

    @property
    def is_scoring(self) -> bool:
        """Whether log-probabilities of its prompt are still to be computed."""
        return self.prompt_logprobs is not None and len(self.prompt_scores) < self.num_prompt - 1

    def take_scores(self) -> tuple[Logprob, ...]:
        """All scores of the prompt, once."""
        scores, self.prompt_logprobs, self.prompt_scores = tuple(self.prompt_scores), None, []
        return scores

    def append(self, token_id: int) -> None:
        """What a step gave."""
        self.token_ids.append(token_id)
        self.num_in_flight = max(0, self.num_in_flight - 1)
        if self.adjustments is not None:
            self.adjustments.count(token_id)

    def begin(self, num_cached: int) -> None:
        """It was admitted, and so many of its tokens have KV already."""
        self.num_computed = self.num_planned = num_cached
        if self.num_preemptions == 0:
            self.num_cached = num_cached

    def rewind(self) -> None:
        """Its KV is gone; everything known is computed anew, and what was coming comes again."""
        self.num_computed = self.num_planned = self.num_in_flight = 0
        self.num_preemptions += 1

    def take_back(self) -> None:
        """No submitted step will give anything."""
        self.num_planned, self.num_in_flight = self.num_computed, 0

    def finish_reason(self, *, max_context: int) -> str | None:
        """Why the last appended token was the last one, or None. Stop tokens win over limits."""
        if self.token_ids[-1] in self.stop_token_ids:
            return "stop"
        if self.num_generated >= self.max_tokens or self.num_known >= max_context:
            return "length"
        return None


def _urgency(deadline_s: float | None) -> float:
    """1 for what should be there now, 0 for what has time."""
    if deadline_s is None:
        return 0.0
    return min(max(1.0 - deadline_s / URGENT_WITHIN_S, 0.0), 1.0)
