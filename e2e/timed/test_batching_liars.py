"""The batching suite must reject those who only look as if they batched, shared fairly or kept tenants apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.batching_checks import CHECKS
from e2e.harness.running_server import Known, Target
from e2e.liars.proxy import BATCHING_LIES
from e2e.liars.trial import lying, rejected

MUST_FAIL = {
    "lock": "B1",
    "chunker": "B4",
    "boastful": "B5",
    "cache-claims": "B10",
    "one-guest": "B10",
    "first-come": "B8",
}


def test_every_lie_has_a_check() -> None:
    """Every lie has a check, and every check rejects a lie."""
    assert set(MUST_FAIL) == set(BATCHING_LIES)
    assert set(MUST_FAIL.values()) == set(CHECKS)


@pytest.mark.parametrize("lie", BATCHING_LIES)
def test_liar_is_rejected(lie: str, tenant_server: Target, known: Known, tmp_path: Path) -> None:
    """The check that is meant for a lie sees it."""
    with lying(lie, tmp_path, upstream=tenant_server.url) as liar:
        reason = rejected(CHECKS[MUST_FAIL[lie]], liar, known)

    assert reason is not None


def test_honest_proxy_is_accepted(tenant_server: Target, known: Known, tmp_path: Path) -> None:
    """The control: without a lie, the same proxy passes every check that rejects the others."""
    with lying("none", tmp_path, upstream=tenant_server.url) as honest:
        reasons = {name: rejected(check, honest, known) for name, check in CHECKS.items()}

    assert reasons == dict.fromkeys(CHECKS)
