"""A clock that stands still until a test moves it."""

from __future__ import annotations

import pytest


class Clock:
    """Replaces `time.perf_counter` for one test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("time.perf_counter", lambda: self.now)
