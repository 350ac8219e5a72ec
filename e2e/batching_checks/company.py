"""B3, B6: company changes no answer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from e2e.harness.completions import complete, text_of
from e2e.harness.nonce import rng
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import ask, chat_text, post_ok

TOKENS = 24
CAPITALS = {"Peru": "Lima", "Japan": "Tokyo", "Italy": "Rome", "Egypt": "Cairo", "Norway": "Oslo"}


def check_b3(target: Target, known: Known) -> None:
    """32 prompts of 1 to 200 tokens at once, each with the text of an independent forward."""
    prompts = known.random.steady_prompts(rng("company"), 32, max_tokens=TOKENS, lengths=range(1, 201))

    with ThreadPoolExecutor(len(prompts)) as pool:
        answers = list(
            pool.map(lambda prompt: complete(target, prompt, key=target.keys.acme, max_tokens=TOKENS), prompts)
        )

    expected = [known.random.greedy(prompt, TOKENS, ignore_eos=True).text for prompt in prompts]
    assert list(map(text_of, answers)) == expected


def check_b6(target: Target, known: Known) -> None:
    """Five questions at once; no client gets another one's answer."""

    def answer_to(country: str) -> str:
        body = ask(f"What is the capital of {country}?", max_tokens=20)
        return chat_text(post_ok(f"{target.api}/chat/completions", body, target.keys.acme))

    with ThreadPoolExecutor(len(CAPITALS)) as pool:
        answers = dict(zip(CAPITALS, pool.map(answer_to, CAPITALS), strict=True))

    assert all(capital in answers[country] for country, capital in CAPITALS.items()), answers
