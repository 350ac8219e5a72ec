"""How long to wait before an engine is started again, and when to give up."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

import msgspec


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Delays double from `first_s` to `longest_s`; the engine that dies `most` times within `window_s` is given up."""

    first_s: float = 1.0
    longest_s: float = 60.0
    most: int = 5
    window_s: float = 600.0
    jitter: float = 0.2
    """Delays vary by this share, so that many engines do not come back at once."""


class RestartClock:
    """Remembers deaths. `now` gives monotonic seconds."""

    def __init__(self, policy: RestartPolicy, *, now: Callable[[], float]) -> None:
        self._policy = policy
        self._now = now
        self._deaths: deque[float] = deque(maxlen=policy.most)

    def delay_after_death(self) -> float | None:
        """Note a death. Returns seconds to wait before the next start, or None to give up."""
        policy, now = self._policy, self._now()
        self._deaths.append(now)
        recent = sum(now - death <= policy.window_s for death in self._deaths)
        if recent >= policy.most:
            return None
        delay = min(policy.first_s * 2.0 ** (recent - 1), policy.longest_s)
        return delay * random.uniform(1.0 - policy.jitter, 1.0 + policy.jitter)  # noqa: S311  no secret hangs on it
