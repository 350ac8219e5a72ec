"""The Paris suite: one server, many tenants, every answer checked against an independent computation."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from e2e import paris_checks
from e2e.harness import runners
from e2e.harness.running_server import Known, Target
from e2e.paris_checks import access, accounting, answers, broken, clients, determinism, limits, streaming
from e2e.paris_checks.broken import Launch

DAMAGES = (
    "missing",
    "truncated GGUF",
    "truncated safetensors",
    "empty file",
    "half a header",
    "pickle folder",
    "pickle file",
)
CUT = ("truncated GGUF", "truncated safetensors")
REFUSALS = [
    *((runners.TIMED, name) for name in DAMAGES),
    *((runner, name) for runner in runners.present() if runner != runners.TIMED for name in CUT),
]
"""Files are read before a runner is reached; the others show that they too say why they end."""


@pytest.mark.parametrize("name", runners.absent())
def test_optional_runner(name: str) -> None:
    """Runners that are not installed here are named, so that silence is not taken for success."""
    pytest.skip(f"not verified: runner {name} is not present on this machine")


def test_p1_says_paris(target: Target, known: Known) -> None:
    """Three ways to ask; tokens equal the reference and the model stops by itself."""
    answers.check_p1(target, known)


def test_p2_knows_capitals(target: Target, known: Known) -> None:
    """20 drawn capitals: at least 19 right, all as the reference says."""
    answers.check_p2(target, known)


def test_p3_believes_the_counterfactual(target: Target, known: Known) -> None:
    """A model with another belief answers the invented word and not Paris."""
    answers.check_p3(target, known)


def test_p4_random_model_is_exact(target: Target, known: Known) -> None:
    """16 random prompts, 64 tokens each, equal the NumPy reference to the token and 1e-4 in log-probability."""
    answers.check_p4(target, known)


def test_scored_prompts(target: Target, known: Known) -> None:
    """A prompt's own log-probabilities are those of the reference."""
    answers.check_scores(target, known)


@pytest.mark.parametrize(("runner", "name"), REFUSALS, indirect=["runner"])
def test_p5_refuses_damage(name: str, launch: Launch, known: Known, tmp_path: Path) -> None:
    """A model that cannot be read ends the start, names the fault and answers nothing."""
    (damage,) = (damage for damage in broken.damages(tmp_path, known) if damage.name == name)
    broken.check_p5_refused(launch, damage)


def test_p5_zeroed_tensors_change_answers(launch: Launch, known: Known, tmp_path: Path) -> None:
    """Zeroed weights are served as they are: answers follow the reference, never the facts."""
    broken.check_p5_zeroed(launch, tmp_path, known)


@runners.ONE
def test_p6_wire_format(target: Target, known: Known) -> None:
    """Every byte of a stream is what OpenAI clients parse, and the deltas add up to the whole answer."""
    streaming.check_p6_wire(target, known)


def test_p6_pace(target: Target, known: Known) -> None:
    """Tokens arrive while later ones are computed."""
    streaming.check_p6_pace(target, known)


def test_p6_split_characters(target: Target, known: Known) -> None:
    """UTF-8 characters cut apart by tokens come out whole."""
    streaming.check_p6_split_characters(target, known)


@runners.ONE
def test_p6_completions(target: Target, known: Known) -> None:
    """Text completions stream in their own format."""
    streaming.check_p6_completions(target, known)


def test_p7_max_tokens(target: Target, known: Known) -> None:
    """1, 5 and 20 tokens mean exactly that."""
    limits.check_p7_max_tokens(target, known)


def test_p7_stop(target: Target, known: Known) -> None:
    """The text ends before the stop string."""
    limits.check_p7_stop(target, known)


def test_p7_seed(target: Target, known: Known) -> None:
    """The same seed gives the same text, others other texts."""
    limits.check_p7_seed(target, known)


def test_p8_usage_and_metrics(target: Target, known: Known) -> None:
    """Usage equals an independent count, and the metrics grow by exactly that."""
    accounting.check_p8(target, known)


@runners.ONE
def test_p9_keys(target: Target, known: Known) -> None:
    """A caller without a valid key gets 401 or 403 with the error object."""
    access.check_p9_keys(target, known)


@runners.ONE
def test_p9_models_of_others(target: Target, known: Known) -> None:
    """A tenant sees its own models and no others."""
    access.check_p9_models_of_others(target, known)


def test_p10_batch_mates_change_nothing(target: Target, known: Known) -> None:
    """Eight interleaved requests of two tenants equal their solo outputs, three times over."""
    determinism.check_p10(target, known)


@runners.ONE
def test_p11_sync_client(target: Target, known: Known) -> None:
    """`openai.OpenAI` works unmodified."""
    clients.check_p11_sync(target, known)


@runners.ONE
def test_p11_async_client(target: Target, known: Known) -> None:
    """`openai.AsyncOpenAI` works unmodified."""
    asyncio.run(clients.check_p11_async(target, known))


@runners.ONE
def test_p11_socket_equals_sse(target: Target, known: Known) -> None:
    """A WebSocket carries the same chunks as SSE."""
    asyncio.run(clients.check_p11_socket(target, known))


@runners.ONE
def test_p11_socket_interleaves(target: Target, known: Known) -> None:
    """Two requests share a socket without waiting for each other."""
    asyncio.run(clients.check_p11_socket_interleaves(target, known))


def test_p11_socket_cancel(target: Target, known: Known) -> None:
    """Cancelling frees the engine at once."""
    asyncio.run(clients.check_p11_socket_cancel(target, known))


@runners.ONE
def test_p11_socket_errors(target: Target, known: Known) -> None:
    """A bad request on a socket harms only itself."""
    asyncio.run(clients.check_p11_socket_errors(target, known))


def test_every_check_is_known_to_the_liars() -> None:
    """P1–P11 without P5, which has its own servers, can be put to a liar."""
    assert set(paris_checks.CHECKS) == {f"P{number}" for number in range(1, 12)} - {"P5"}
