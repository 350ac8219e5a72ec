"""P7: `max_tokens`, `stop` and `seed` do what they say."""

from __future__ import annotations

from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import Json, ask, chat_text, post_ok, stream

QUESTION = "Count to 30."
CAPITAL = "What is the capital of France?"
STOP = "nce is"
"""Begins and ends inside tokens of the answer."""


def check_p7(target: Target, known: Known) -> None:
    check_p7_max_tokens(target, known)
    check_p7_stop(target, known)
    check_p7_seed(target, known)


def check_p7_max_tokens(target: Target, known: Known) -> None:
    """Exactly as many tokens as asked for, and the reason is `length`; both spellings of the limit."""
    for limit in (1, 5, 20):
        for field in ("max_tokens", "max_completion_tokens"):
            body = ask(QUESTION, logprobs=True) | {field: limit}

            answer = post_ok(f"{target.api}/chat/completions", body, target.keys.acme)

            choice = answer["choices"][0]
            assert answer["usage"]["completion_tokens"] == limit, answer
            assert len(choice["logprobs"]["content"]) == limit, answer
            assert choice["finish_reason"] == "length", answer
            assert chat_text(answer) == known.demo.chat(QUESTION, max_tokens=limit).text, answer


def check_p7_stop(target: Target, known: Known) -> None:
    """The text ends before the stop string, streamed or not; without one the model ends by itself."""
    url, key = f"{target.api}/chat/completions", target.keys.acme
    free = post_ok(url, ask(CAPITAL, max_tokens=40), key)
    assert free["choices"][0]["finish_reason"] == "stop", free
    assert STOP in chat_text(free), free
    wanted = chat_text(free).split(STOP)[0]

    for stop in (STOP, [STOP], ["never said", STOP]):
        answer = post_ok(url, ask(CAPITAL, max_tokens=40, stop=stop), key)
        seen = stream(url, ask(CAPITAL, max_tokens=40, stop=stop), key)

        assert chat_text(answer) == wanted, answer
        assert answer["choices"][0]["finish_reason"] == "stop", answer
        assert answer["usage"]["completion_tokens"] < free["usage"]["completion_tokens"], answer
        assert seen.text == wanted
        assert seen.finish_reasons == ["stop"]


def check_p7_seed(target: Target, known: Known) -> None:
    """A seed decides the text at temperature 1: the same one the same text, others others."""
    prompt = rng("seed prompt").choices(range(known.random.vocabulary.size // 2), k=6)
    seeds = rng("seeds").sample(range(2**31), 5)

    texts = [_sampled(target, prompt, seed) for seed in seeds]
    again = [_sampled(target, prompt, seed) for seed in seeds]

    assert again == texts
    assert len(set(texts)) == len(seeds), texts


def _sampled(target: Target, prompt: list[int], seed: int) -> str:
    body: Json = {"model": "random", "prompt": prompt, "max_tokens": 24, "temperature": 1, "seed": seed}
    answer = post_ok(f"{target.api}/completions", body | {"ignore_eos": True}, target.keys.acme)
    text: str = answer["choices"][0]["text"]
    return text
