"""Which part of every limit this gateway may grant, when several serve the same tenants."""

from __future__ import annotations

from collections.abc import Mapping

WHOLE = 1 << 16


class Shares:
    """In parts of `WHOLE`. A gateway that is alone has all; the others' are made known by `take_over`."""

    def __init__(self) -> None:
        self._default = WHOLE
        self._own: Mapping[str, int] = {}
        self._wanted: set[str] = set()

    @property
    def are_whole(self) -> bool:
        return self._default == WHOLE

    def of(self, subject: str) -> int:
        return self._own.get(subject, self._default)

    def granted(self, limit: int, subject: str) -> int:
        """What this gateway may grant of a limit. Never nothing: a share too small for one request is rounded up."""
        share = self.of(subject)
        return limit if share == WHOLE else max(1, limit * share // WHOLE)

    def want(self, subject: str) -> None:
        """A request was refused here that the whole limit would have had room for."""
        self._wanted.add(subject)

    def take_wanted(self) -> set[str]:
        """Subjects that wanted more since this was last asked for."""
        wanted, self._wanted = self._wanted, set()
        return wanted

    def take_over(self, *, default: int, own: Mapping[str, int]) -> None:
        """`own` names the subjects for which this gateway has another share than the default."""
        self._default, self._own = default, own
