"""The suite must reject liars. A check that no liar can fail checks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from e2e.harness.house import Known, Target, house_arguments
from e2e.harness.server import LIARS, Server, ServerFailed
from e2e.liars import impostor, proxy
from e2e.paris_checks import CHECKS, broken

MUST_FAIL = {
    "constant": ("P2", "P3", "P4", "P6", "P7", "P8"),
    "echo": ("P1", "P2", "P3", "P4", "P6", "P7", "P8"),
    "health-only": tuple(CHECKS),
    "chunker": ("P6",),
    "usage": ("P8",),
    "frozen-metrics": ("P8",),
    "always-stop": ("P7",),
    "no-stop": ("P7",),
    "no-seed": ("P7", "P10"),
    "open-door": ("P9",),
    "deaf-socket": ("P11",),
}
TOLD_ELSEWHERE = {"none", "lock"}
"""`none` is the control; `lock` answers rightly, only slowly, and is caught by the batching suite."""

PROXY_CHECKS = tuple(dict.fromkeys(check for lie in proxy.LIES for check in MUST_FAIL.get(lie, ())))


@contextmanager
def lying(lie: str, folder: Path, *, upstream: str = "") -> Iterator[Target]:
    """A liar with the tenants and model names of the house."""
    served = dict.fromkeys(("demo", "random", "random-gguf", "counterfactual", "big"), Path("none"))
    arguments = ["--lie", lie, "--upstream", upstream, *house_arguments(folder, served, runner="onnx")]
    server = Server(arguments, command=LIARS)
    try:
        yield Target(url=server.wait_ready())
    finally:
        server.stop()


def rejected(check: str, target: Target, known: Known) -> str | None:
    """Why the check rejects the target; None if it is taken in."""
    try:
        CHECKS[check](target, known)
    except AssertionError as reason:
        return str(reason) or "assertion"
    except Exception as reason:
        # A liar without a route breaks the client in its own way; that is a rejection too.
        return repr(reason)
    return None


def test_every_lie_has_a_check() -> None:
    """No lie is left untold."""
    assert set(MUST_FAIL) | TOLD_ELSEWHERE == {*impostor.LIES, *proxy.LIES}


@pytest.mark.parametrize("lie", impostor.LIES)
def test_impostor_is_rejected(lie: str, known: Known, tmp_path: Path) -> None:
    """A gateway without a model fails the checks that need one."""
    with lying(lie, tmp_path) as target:
        taken_in = [check for check in MUST_FAIL[lie] if rejected(check, target, known) is None]

    assert not taken_in


@pytest.mark.parametrize("lie", [lie for lie in proxy.LIES if lie in MUST_FAIL])
def test_proxy_is_rejected(lie: str, target: Target, known: Known, tmp_path: Path) -> None:
    """One lie before the honest server is enough."""
    with lying(lie, tmp_path, upstream=target.url) as liar:
        taken_in = [check for check in MUST_FAIL[lie] if rejected(check, liar, known) is None]

    assert not taken_in


def test_honest_proxy_is_accepted(target: Target, known: Known, tmp_path: Path) -> None:
    """The control: without a lie, the same proxy passes every check that rejects the others."""
    with lying("none", tmp_path, upstream=target.url) as honest:
        reasons = {check: rejected(check, honest, known) for check in PROXY_CHECKS}

    assert reasons == dict.fromkeys(PROXY_CHECKS)


def test_inventing_liar_fails_p5(known: Known, tmp_path: Path) -> None:
    """A gateway that starts without its model and recites is caught by the damaged-model check."""
    (missing,) = (damage for damage in broken.damages(tmp_path, known) if damage.name == "missing")

    def launch(served: dict[str, Path]) -> Server:
        return Server(["--lie", "constant", *house_arguments(tmp_path, served, runner="onnx")], command=LIARS)

    with pytest.raises((AssertionError, ServerFailed), match="answered 200"):
        broken.check_p5_refused(launch, missing)
