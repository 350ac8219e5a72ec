"""Many requests in one batch, from outside: each gets what it would get alone, and no result is computed in vain."""

from __future__ import annotations

import pytest

from e2e.batching_checks import company, conservation, joining, leaving, prefixes
from e2e.harness import runners
from e2e.harness.running_server import Known, Target


def test_company_changes_no_answer(target: Target, known: Known) -> None:
    """B3: 32 prompts of 1 to 200 tokens at once, each with the text of an independent forward."""
    company.check_b3(target, known)


def test_short_joins_and_leaves_before_long(target: Target, known: Known) -> None:
    """B4: an answer of 16 tokens ends amid one of 512 that began before it."""
    joining.check_b4(target, known)


def test_what_is_computed_is_what_is_sold(target: Target, known: Known) -> None:
    """B5: tokens of prompts and answers are counted once, and those that come together run together."""
    conservation.check_b5(target, known)


def test_five_questions_at_once(target: Target, known: Known) -> None:
    """B6: no client gets another one's answer."""
    company.check_b6(target, known)


def test_who_leaves_is_not_computed_for(target: Target, known: Known) -> None:
    """B7: ten clients vanish amid their streams; their places are free at once, and no token is made more."""
    leaving.check_b7(target, known)


def test_a_shared_beginning_is_computed_once(target: Target, known: Known) -> None:
    """B10: `cached_tokens` says how much of a prompt was there, and another tenant finds nothing."""
    prefixes.check_b10(target, known)


@pytest.mark.parametrize("runner", [name for name in runners.present() if name != runners.TIMED], indirect=True)
def test_a_cached_beginning_answers_sooner(target: Target, known: Known, runner: str) -> None:
    """B10: 90 % of a long prompt known, about a quarter of the time to the first token; another tenant's is cold."""
    prefixes.check_b10_sooner(target, known, runner=runner)
