"""Stop strings across chunks, against a search of the whole text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import RequestError
from backends.text.stop import StopMatcher
from tests.costs import cost_ratio, growth

STOPS = st.lists(st.text("ab", min_size=1, max_size=5), max_size=4)
CHUNKS = st.lists(st.text("abc", max_size=5), max_size=12)


def search_whole(text: str, stops: list[str]) -> tuple[str, bool]:
    """The text before the stop string that is complete first, the longest of several."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(stops=STOPS, chunks=CHUNKS)
def test_as_a_search_of_the_whole_text(stops: list[str], chunks: list[str]) -> None:
    """Joined, what is shown is the text before the first stop string, however it is cut into chunks."""
    matcher = StopMatcher(stops)

    shown, stopped = "", False
    for chunk in chunks:
        text, stopped = matcher.push(chunk)
        shown += text
    shown += matcher.flush()

    assert (shown, stopped) == search_whole("".join(chunks), stops)


@given(stops=STOPS, chunks=CHUNKS)
def test_holds_back_no_more_than_needed(stops: list[str], chunks: list[str]) -> None:
    """The text hidden after each chunk is the longest ending that begins a stop string."""
    matcher = StopMatcher(stops)

    shown, pushed = "", ""
    for chunk in chunks:
        text, stopped = matcher.push(chunk)
        if stopped:
            return
        shown, pushed = shown + text, pushed + chunk

        hidden = [
            n for n in range(len(pushed) + 1) if any(stop.startswith(pushed[len(pushed) - n :]) for stop in stops)
        ]
        assert pushed[len(shown) :] == pushed[len(pushed) - max(hidden, default=0) :]


def test_stop_over_three_tokens() -> None:
    """A stop string in pieces is found, and nothing of it is shown."""
    matcher = StopMatcher(["\nUser:"])

    deltas = [matcher.push(text) for text in ("Hi\n", "Us", "er: more")]

    assert deltas == [("Hi", False), ("", False), ("", True)]
    assert matcher.push("later") == ("", True)
    assert matcher.flush() == ""


def test_without_stops_text_passes() -> None:
    """No stop strings, nothing held back."""
    assert StopMatcher([]).push("text") == ("text", False)


def test_empty_stop_is_refused() -> None:
    """An empty stop string would end every answer."""
    with pytest.raises(RequestError, match="must not be empty") as caught:
        StopMatcher(["", "x"])

    assert caught.value.param == "stop"


def test_linear_time() -> None:
    """A character of the worst text for a naive search costs the same after any text and for a stop of any length."""

    def push(characters: int, *, length: int = 1000) -> None:
        matcher = StopMatcher(["a" * length + "b"])
        for _ in range(characters):
            matcher.push("a")

    of_longer_text = growth(push, 10_000)
    of_longer_stop = cost_ratio(lambda: push(20_000, length=1000), lambda: push(20_000, length=10))

    assert of_longer_text < 8, "4 if linear, 16 if quadratic"
    assert of_longer_stop < 4, "1 without a search, 100 if the stop string is compared at each character"
