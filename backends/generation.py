"""Generation requests, and the events of their responses."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a chat, text only."""

    role: str
    content: str
    name: str | None = None


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """A chat; the backend applies the model's chat template."""

    messages: tuple[Message, ...]


class TextPrompt(msgspec.Struct, frozen=True, tag="text"):
    """Raw text, tokenized as it stands (plus BOS where the model wants one)."""

    text: str


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens"):
    """Token ids, used exactly as given."""

    token_ids: tuple[int, ...]


Prompt = ChatPrompt | TextPrompt | TokenPrompt


class Sampling(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Parameters for drawing the next token. Defaults mean "off"; `temperature=0` is greedy.

    `seed=None` lets the engine draw one. Randomness is keyed by (seed, output index) and by nothing else.
    `logprobs=N` returns the log-probability of each token and of its N best alternatives, taken from the logits
    before temperature, penalties and bias; `None` returns none.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None


class Share(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tenant of a request, the tenant's share of an engine, and the scope in which it shares prefixes."""

    tenant: str = "default"
    weight: float = 1.0
    """Weight of the tenant, relative to others that wait for the same engine."""
    priority: int = 0
    """A bounded lead over other tenants; higher is sooner."""
    prefix_scope: str = ""
    """Requests of one scope may share what is computed for their prompts; empty, those of the tenant."""


class GenerateRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One completion to generate. `max_tokens=None` means "until the context is full"; `max_context` makes it smaller
    than the model's own.

    `prompt_logprobs=N` returns the log-probability of each prompt token given those before it, with its N best
    alternatives; together with `max_tokens=0` it only scores the prompt.
    """

    request_id: str
    prompt: Prompt
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    share: Share = Share()
    adapter: str | None = None
    prompt_logprobs: int | None = None
    max_context: int | None = None
    deadline_at: float | None = None
    """Time of `time.monotonic` when the whole response must be complete; None is no deadline."""


class TokenLogprob(msgspec.Struct, frozen=True):
    """Log-probability (natural logarithm) of one token; `utf8` may be half a UTF-8 character.

    `logprob` is None for the first token of a prompt, which nothing predicts.
    """

    token_id: int
    utf8: bytes
    logprob: float | None
    top: tuple[tuple[int, bytes, float], ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as billed: what the engine computed and the client was offered."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    accepted_prediction_tokens: int = 0


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The request was accepted; always the first event."""

    prompt_tokens: int
    prompt_text: str = ""
    max_tokens: int | None = None
    """Most tokens that will be generated; None if the backend cannot know."""


class Delta(msgspec.Struct, frozen=True, tag="delta"):
    """New text. `text` may be empty while a UTF-8 character or a stop string is still incomplete.

    A prompt's log-probabilities, if requested, come first, in one delta without text and token ids.
    """

    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The request ended normally; nothing follows."""

    finish_reason: FinishReason
    usage: Usage


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The request was accepted and then could not be finished; nothing follows."""

    code: str
    message: str
    usage: Usage


Event = Started | Delta | Done | Failed
