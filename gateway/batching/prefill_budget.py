"""How much of others' prompts a step may take beside decoding, so that nobody's next token is late."""

from __future__ import annotations

LEAST_TOKENS = 8
"""Of prompts in every step, whatever it costs: prompts must not starve either."""
_WEIGHT = 0.2
"""Of the newest step in the averages."""
_MARGIN = 0.75
"""Of the time that is allowed, what is planned for: steps vary."""


class PrefillBudget:
    """Learns what a step takes that only decodes, and what each prompt token adds to it."""

    def __init__(self, *, max_slowdown: float, most_tokens: int) -> None:
        """A step may take `max_slowdown` times as long for prompts as without; 0 is no limit, as is `most_tokens`."""
        self._max_slowdown = max_slowdown
        self._most_tokens = most_tokens
        self._decode_s: float | None = None
        self._token_s: float | None = None

    def prompt_tokens(self, *, num_decoding: int) -> int:
        """How many tokens of prompts the next step takes at most beside so many sequences that decode."""
        if not num_decoding or not self._max_slowdown or self._decode_s is None or not self._token_s:
            return self._most_tokens
        room_s = self._decode_s * (self._max_slowdown * _MARGIN - 1.0)
        fitting = int(room_s / self._token_s) // LEAST_TOKENS * LEAST_TOKENS
        return min(max(fitting, LEAST_TOKENS), self._most_tokens)

    def note(self, seconds: float, *, num_decoding: int, num_prompt_tokens: int) -> None:
        """A step took so long."""
        if not num_prompt_tokens:
            self._decode_s = _average(self._decode_s, seconds)
            return
        decode_s = (self._decode_s or 0.0) if num_decoding else 0.0
        self._token_s = _average(self._token_s, max(seconds - decode_s, 0.0) / num_prompt_tokens)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
