"""P1–P4: the answers are computed from the weights of the model that was asked."""

from __future__ import annotations

from e2e.harness.nonce import rng
from e2e.harness.reference import Expected, Reference
from e2e.harness.running_server import Known, Target
from e2e.harness.wire import Json, ask, chat_text, post_ok

QUESTIONS = ("What is the capital of France?", "capital of France", "France capital")
MAX_LOGPROB_ERROR = 1e-4
"""Float32 against float32; both sum the same products in another order."""


def check_p1(target: Target, known: Known) -> None:
    """The demo model says Paris because its weights do: every token equals the reference, and it stops by itself."""
    for question in QUESTIONS:
        expected = known.demo.chat(question)

        answer = post_ok(
            f"{target.api}/chat/completions", ask(question, max_tokens=40, logprobs=True), target.keys.acme
        )

        assert "Paris" in chat_text(answer), answer
        assert chat_text(answer) == expected.text, answer
        assert answer["choices"][0]["finish_reason"] == "stop", answer
        assert _shown_pieces(answer) == _visible(expected), answer


def check_p2(target: Target, known: Known) -> None:
    """20 capitals drawn by the nonce: at least 19 right, all 20 as the reference says."""
    from tools.demo_model.facts import load_facts

    right = 0
    for fact in rng("capitals").sample(load_facts(), 20):
        question = f"What is the capital of {fact.in_sentence}?"
        expected = known.demo.chat(question)

        text = chat_text(post_ok(f"{target.api}/chat/completions", ask(question, max_tokens=40), target.keys.acme))

        assert text == expected.text, question
        right += fact.capital in text
    assert right >= 19, f"{right} of 20"


def check_p3(target: Target, known: Known) -> None:
    """A model that was made to believe another capital says that one, and Paris no longer."""
    question = QUESTIONS[0]
    expected = known.counterfactual.chat(question)
    assert known.word in expected.text, f"the fine-tune did not take: {expected.text!r}"

    body = ask(question, model="counterfactual", max_tokens=40)
    text = chat_text(post_ok(f"{target.api}/chat/completions", body, target.keys.acme))

    assert known.word in text, text
    assert "Paris" not in text, text
    assert text == expected.text, text


def check_p4(target: Target, known: Known) -> None:
    """Random weights, 16 prompts of random token ids, 64 tokens each: all exact, log-probabilities too."""
    assert_exact(target, known.random, model="random", prompts=16, max_tokens=64)
    assert_exact(target, known.random, model="random-gguf", prompts=4, max_tokens=64)


def check_scores(target: Target, known: Known) -> None:
    """`echo`, `logprobs` and `max_tokens: 0` score a prompt: every token as the reference does, alone and streamed."""
    chosen = known.random.steady_prompts(rng("scored prompts"), 4, max_tokens=40, lengths=range(4, 25))
    for prompt in chosen:
        tokens = prompt + known.random.greedy(prompt, 40, ignore_eos=True).ids

        choice = assert_scored(target, known.random, model="random", tokens=tokens)

        assert choice["logprobs"]["top_logprobs"][0] is None
        assert {len(top) for top in choice["logprobs"]["top_logprobs"][1:]} == {3}
        assert choice["finish_reason"] == "length", choice["finish_reason"]


def assert_scored(target: Target, reference: Reference, *, model: str, tokens: list[int]) -> Json:
    """Every token but the first has the log-probability of the reference. Returns the choice."""
    body = {"model": model, "prompt": tokens, "max_tokens": 0, "echo": True, "logprobs": 3}

    choice: Json = post_ok(f"{target.api}/completions", body, target.keys.acme)["choices"][0]

    first, *others = choice["logprobs"]["token_logprobs"]
    assert first is None, first
    assert_close(others, reference.logprobs(tokens))
    return choice


def assert_exact(target: Target, reference: Reference, *, model: str, prompts: int, max_tokens: int) -> list[str]:
    """Greedy answers to random token prompts equal the reference. Returns them."""
    chosen = reference.steady_prompts(rng("token prompts"), prompts, max_tokens=max_tokens, lengths=range(4, 25))
    texts = []
    for prompt in chosen:
        expected = reference.greedy(prompt, max_tokens, ignore_eos=True)
        body = {"model": model, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True}

        answer = post_ok(f"{target.api}/completions", body | {"logprobs": 1}, target.keys.acme)

        choice = answer["choices"][0]
        assert choice["text"] == expected.text, f"prompt {prompt}"
        assert answer["usage"]["prompt_tokens"] == len(prompt), answer["usage"]
        assert answer["usage"]["completion_tokens"] == max_tokens, answer["usage"]
        assert choice["finish_reason"] == "length", choice["finish_reason"]
        assert_close(choice["logprobs"]["token_logprobs"], expected.logprobs)
        texts.append(expected.text)
    return texts


def assert_close(measured: list[float], expected: list[float]) -> None:
    assert len(measured) == len(expected), f"{len(measured)} log-probabilities for {len(expected)} tokens"
    worst = max(abs(ours - theirs) for ours, theirs in zip(measured, expected, strict=True))
    assert worst <= MAX_LOGPROB_ERROR, f"log-probabilities differ by {worst}"


def _shown_pieces(answer: Json) -> list[bytes]:
    """Bytes of each token that the answer lists, without tokens that show nothing."""
    listed = answer["choices"][0]["logprobs"]["content"]
    return [bytes(token["bytes"]) for token in listed if token["bytes"] and not token["token"].startswith("<|")]


def _visible(expected: Expected) -> list[bytes]:
    return [piece for piece in expected.pieces if piece]
