"""`/admin/v1/usage` as the operator reads it: the requests of a span, and the sums."""

from __future__ import annotations

import time

import msgspec

from e2e.harness.running_server import Target
from e2e.harness.wire import Json, get

MAX_ROWS = 1000
TOKENS = ("prompt_tokens", "completion_tokens")


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """One request, or many."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Ledger:
    """Usage recorded from its creation on."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._start = time.time()
        self._before = self._sums()

    def rows(self, tenant: str) -> dict[str, tuple[str, str, Spent]]:
        """Requests of a tenant by the id of their answer: the model, how they ended, and their tokens."""
        rows = self._read(f"/requests?tenant={tenant}&start={self._start}&limit={MAX_ROWS}")
        found = {row["id"]: (row["model"], row["state"], _spent(row, requests=1)) for row in rows}
        assert len(found) == len(rows), f"a request is written down twice: {[row['id'] for row in rows]}"
        return found

    def grown(self) -> dict[tuple[str, str], Spent]:
        """Increase of the sums since creation, by (model, tenant)."""
        grown = {}
        for key, now in self._sums().items():
            before = msgspec.structs.asdict(self._before.get(key, Spent()))
            more = {name: value - before[name] for name, value in msgspec.structs.asdict(now).items()}
            if any(more.values()):
                grown[key] = Spent(**more)
        return grown

    def _sums(self) -> dict[tuple[str, str], Spent]:
        found = self._read("?group_by=tenant,model")
        return {(each["model"], each["tenant_name"]): _spent(each, requests=each["requests"]) for each in found}

    def _read(self, query: str) -> list[Json]:
        response = get(f"{self._target.url}/admin/v1/usage{query}", self._target.keys.admin)
        assert response.status_code == 200, f"{response.status_code}: {response.text[:500]}"
        page: Json = response.json()
        assert not page["has_more"], "more rows than a page holds"
        data: list[Json] = page["data"]
        return data


def _spent(entry: Json, *, requests: int) -> Spent:
    return Spent(requests=requests, **{name: entry[name] for name in TOKENS})
