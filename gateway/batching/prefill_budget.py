"""Limits the prompt tokens in a step with decoding sequences, so that their next tokens are not late."""

from __future__ import annotations

LEAST_TOKENS = 8
"""Prompt tokens allowed in every step, whatever they cost: prompts must not starve either."""
_WEIGHT = 0.2
"""Weight of the newest step in the averages."""
_MARGIN = 0.75
"""Part of the allowed time that is planned for, because step times vary."""


class PrefillBudget:
    """Learns how long a step takes that only decodes, and how much each prompt token adds."""

    def __init__(self, *, max_slowdown: float, most_tokens: int) -> None:
        """Allow prompts to make a step up to `max_slowdown` times as long; 0 means no limit but `most_tokens`."""
        self._max_slowdown = max_slowdown
        self._most_tokens = most_tokens
        self._decode_s: float | None = None
        self._token_s: float | None = None

    def prompt_tokens(self, *, num_decoding: int) -> int:
        """Most prompt tokens that the next step may take along with `num_decoding` decoding sequences."""
        if not num_decoding or not self._max_slowdown or self._decode_s is None or not self._token_s:
            return self._most_tokens
        room_s = self._decode_s * (self._max_slowdown * _MARGIN - 1.0)
        fitting = int(room_s / self._token_s) // LEAST_TOKENS * LEAST_TOKENS
        return min(max(fitting, LEAST_TOKENS), self._most_tokens)

    def note(self, seconds: float, *, num_decoding: int, num_prompt_tokens: int) -> None:
        """Record the duration of a step."""
        if not num_prompt_tokens:
            self._decode_s = _average(self._decode_s, seconds)
            return
        decode_s = (self._decode_s or 0.0) if num_decoding else 0.0
        self._token_s = _average(self._token_s, max(seconds - decode_s, 0.0) / num_prompt_tokens)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT * (newest - before)
