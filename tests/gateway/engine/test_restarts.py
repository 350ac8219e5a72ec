"""Back-off doubles, and ends."""

from __future__ import annotations

from gateway.engine.client_side.supervisor import RestartClock, RestartPolicy

EXACT = RestartPolicy(first_s=1.0, longest_s=4.0, most=5, window_s=600.0, jitter=0.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_delays_double_to_the_longest_and_then_end() -> None:
    """1, 2, 4, 4, give up."""
    clock = RestartClock(EXACT, now=Clock())

    delays = [clock.delay_after_death() for _ in range(5)]

    assert delays == [1.0, 2.0, 4.0, 4.0, None]


def test_old_deaths_are_forgiven() -> None:
    """Deaths older than the window no longer count."""
    now = Clock()
    clock = RestartClock(EXACT, now=now)
    for _ in range(4):
        clock.delay_after_death()

    now.now_s = 601.0

    assert clock.delay_after_death() == 1.0


def test_jitter_stays_within_its_share() -> None:
    """Many engines do not come back in step, but none much later."""
    policy = RestartPolicy(first_s=10.0, jitter=0.2)

    delays = {RestartClock(policy, now=Clock()).delay_after_death() for _ in range(50)}

    assert len(delays) > 1
    assert all(delay is not None and 8.0 <= delay <= 12.0 for delay in delays)
