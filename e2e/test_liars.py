"""The suite must reject liars. A check that no liar can fail checks nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from e2e.harness.runners import ONE
from e2e.harness.running_server import Known, Target, server_arguments
from e2e.harness.server import LIARS, Server, ServerFailed
from e2e.liars import impostor, proxy
from e2e.liars.trial import lying, rejected
from e2e.paris_checks import CHECKS, broken

MUST_FAIL = {
    "constant": ("P2", "P3", "P4", "P6", "P7", "P8"),
    "echo": ("P1", "P2", "P3", "P4", "P6", "P7", "P8"),
    "health-only": tuple(CHECKS),
    "chunker": ("P6",),
    "usage": ("P8",),
    "ledger": ("P8",),
    "frozen-metrics": ("P8",),
    "always-stop": ("P7",),
    "no-stop": ("P7",),
    "no-seed": ("P7", "P10"),
    "open-door": ("P9",),
    "deaf-socket": ("P11",),
}
TOLD_ELSEWHERE = {"none", *proxy.BATCHING_LIES}
"""`none` is the control; the others answer rightly, and are caught by `e2e.test_batching_liars`."""

PROXY_CHECKS = tuple(dict.fromkeys(check for lie in proxy.LIES for check in MUST_FAIL.get(lie, ())))


def test_every_lie_has_a_check() -> None:
    """No lie is left untold."""
    assert set(MUST_FAIL) | TOLD_ELSEWHERE == {*impostor.LIES, *proxy.LIES}


@pytest.mark.parametrize("lie", impostor.LIES)
def test_impostor_is_rejected(lie: str, known: Known, tmp_path: Path) -> None:
    """A gateway without a model fails the checks that need one."""
    with lying(lie, tmp_path) as target:
        taken_in = [check for check in MUST_FAIL[lie] if rejected(CHECKS[check], target, known) is None]

    assert not taken_in


@ONE
@pytest.mark.parametrize("lie", [lie for lie in proxy.LIES if lie in MUST_FAIL])
def test_proxy_is_rejected(lie: str, target: Target, known: Known, tmp_path: Path) -> None:
    """One lie before the honest server is enough."""
    with lying(lie, tmp_path, upstream=target.url) as liar:
        taken_in = [check for check in MUST_FAIL[lie] if rejected(CHECKS[check], liar, known) is None]

    assert not taken_in


@ONE
def test_honest_proxy_is_accepted(target: Target, known: Known, tmp_path: Path) -> None:
    """The control: without a lie, the same proxy passes every check that rejects the others."""
    with lying("none", tmp_path, upstream=target.url) as honest:
        reasons = {check: rejected(CHECKS[check], honest, known) for check in PROXY_CHECKS}

    assert reasons == dict.fromkeys(PROXY_CHECKS)


def test_inventing_liar_fails_p5(known: Known, tmp_path: Path) -> None:
    """A gateway that starts without its model and recites is caught by the damaged-model check."""
    (missing,) = (damage for damage in broken.damages(tmp_path, known) if damage.name == "missing")

    def launch(served: dict[str, Path]) -> Server:
        return Server(["--lie", "constant", *server_arguments(tmp_path, served, runner="onnx")], command=LIARS)

    with pytest.raises((AssertionError, ServerFailed), match="answered 200"):
        broken.check_p5_refused(launch, missing)
