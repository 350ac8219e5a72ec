"""Token prices."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gateway.tenants.limits.prices import FREE, NANOS, Price, cost_nanos

tokens = st.integers(0, 10**7)
millionths = st.integers(0, 10**9)


@given(prompt=tokens, cached=tokens, completion=tokens, rates=st.tuples(millionths, millionths, millionths))
def test_exact_to_half_a_billionth(prompt: int, cached: int, completion: int, rates: tuple[int, int, int]) -> None:
    """Prices equal fractions to half a billionth, for rates with up to six decimals."""
    cached = min(cached, prompt)
    input_rate, cached_rate, output_rate = (Fraction(rate, 10**6) for rate in rates)
    price = Price(input=float(input_rate), cached_input=float(cached_rate), output=float(output_rate))
    wanted = ((prompt - cached) * input_rate + cached * cached_rate + completion * output_rate) / 10**6 * NANOS

    cost = cost_nanos(price, prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)

    assert abs(cost - wanted) <= Fraction(1, 2)


def test_cached_tokens_without_a_rate() -> None:
    """Cost as much as others of the prompt; without a price everything is free."""
    assert cost_nanos(Price(input=2.0), prompt_tokens=10, cached_tokens=9) == 20_000
    assert cost_nanos(Price(input=2.0, cached_input=0.0), prompt_tokens=10, cached_tokens=9) == 2_000
    assert cost_nanos(FREE, prompt_tokens=10, completion_tokens=10) == 0
