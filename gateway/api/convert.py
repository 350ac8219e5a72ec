"""Converts wire structs to `GenerateRequest`s; no other module does."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from backends.generation import ChatPrompt, GenerateRequest, Message, Prompt, Sampling, Share, TextPrompt, TokenPrompt
from gateway.api.schemas.bounds import MAX_PROMPTS
from gateway.api.schemas.chat import ChatCompletionRequest, ChatMessage
from gateway.api.schemas.completions import CompletionRequest
from gateway.api.unsupported import refuse_unless
from gateway.errors import InvalidRequest, UnsupportedParameter
from gateway.routing import Route, ServedModel
from gateway.tenants.limits.prices import Price
from gateway.tenants.limits.subjects import Bounds, bounds_of
from gateway.tenants.policy import Caller

_DEFAULT_COMPLETION_TOKENS = 16
_NO_TOOLS = "this server does not call tools"
_ROLES = {"developer": "system"}
"""OpenAI's newer name for the system role; chat templates use the older one."""


class RequestPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Plan of one API request: one `GenerateRequest` a choice, and the format of the response."""

    kind: Literal["chat", "completion"]
    id: str
    request_id: str
    created: int
    route: Route
    caller: Caller
    model: str
    """Model name in the response: the requested one, or the adapter's full name."""
    arrived_s: float
    """Time of `time.perf_counter` when its head, or its WebSocket frame, arrived."""
    requests: tuple[GenerateRequest, ...]
    choices_per_prompt: int
    is_streamed: bool
    include_usage: bool
    is_bounded_by_room: bool = False
    """True if the caller's limits leave less than the model's whole context and the request gives no length."""
    echo: bool = False
    logprobs: int | None = None

    @property
    def served(self) -> ServedModel:
        return self.route.served


def plan_chat(
    wire: ChatCompletionRequest,
    *,
    route: Route,
    caller: Caller,
    request_id: str,
    room: Callable[[Caller, str, Price], int | None],
    arrived_s: float,
    streams_by_default: bool = False,
) -> RequestPlan:
    """Plan a chat request. `room` returns the tokens that the caller's limits leave; used if no length is given.

    `arrived_s` is a time of `time.perf_counter`; a deadline counts from it.

    Raises `InvalidRequest` or `UnsupportedParameter` for errors that no single field shows.
    """
    _check_speculative(wire)
    is_streamed = streams_by_default if wire.stream is None else wire.stream
    prompt = ChatPrompt(tuple(_message(message, index) for index, message in enumerate(wire.messages)))
    logprobs, max_tokens, n = _chat_logprobs(wire), _chat_max_tokens(wire), wire.n or 1
    left = room(caller, route.served.name, route.served.price) if max_tokens is None else None
    bounds = bounds_of(caller, max_tokens=max_tokens, room=None if left is None else left // n)
    return RequestPlan(
        kind="chat",
        id=f"chatcmpl-{secrets.token_hex(12)}",
        request_id=request_id,
        created=int(time.time()),
        route=route,
        caller=caller,
        model=_answering(wire.model, route),
        arrived_s=arrived_s,
        requests=_choices(
            wire,
            [prompt],
            n=n,
            sampling=_sampling(wire, logprobs),
            bounds=bounds,
            caller=caller,
            adapter=route.adapter,
            request_id=request_id,
            arrived_s=arrived_s,
        ),
        choices_per_prompt=n,
        is_bounded_by_room=bounds.is_by_room,
        is_streamed=is_streamed,
        include_usage=_include_usage(wire, is_streamed=is_streamed),
        logprobs=logprobs,
    )


def plan_completion(
    wire: CompletionRequest, *, route: Route, caller: Caller, request_id: str, arrived_s: float
) -> RequestPlan:
    """Plan a completion request. `arrived_s` is a time of `time.perf_counter`; a deadline counts from it.

    Raises `InvalidRequest` or `UnsupportedParameter` for errors that no single field shows.
    """
    _check_speculative(wire)
    n = wire.n or 1
    if wire.best_of is not None and wire.best_of != n:
        raise UnsupportedParameter("best_of is not supported unless it equals n", param="best_of")
    max_tokens = _DEFAULT_COMPLETION_TOKENS if wire.max_tokens is None else wire.max_tokens
    return RequestPlan(
        kind="completion",
        id=f"cmpl-{secrets.token_hex(12)}",
        request_id=request_id,
        created=int(time.time()),
        route=route,
        caller=caller,
        model=_answering(wire.model, route),
        arrived_s=arrived_s,
        requests=_choices(
            wire,
            _prompts(wire),
            n=n,
            sampling=_sampling(wire, wire.logprobs),
            bounds=bounds_of(caller, max_tokens=max_tokens, room=None),
            caller=caller,
            adapter=route.adapter,
            request_id=request_id,
            arrived_s=arrived_s,
            prompt_logprobs=wire.logprobs if wire.echo else None,
        ),
        choices_per_prompt=n,
        is_streamed=bool(wire.stream),
        include_usage=_include_usage(wire, is_streamed=bool(wire.stream)),
        echo=bool(wire.echo),
        logprobs=wire.logprobs,
    )


def _answering(requested: str, route: Route) -> str:
    """Model name in the response, which shows whether an adapter was used, and which."""
    return requested if route.adapter is None else route.name


def choice_seed(seed: int | None, choice: int) -> int | None:
    """Choice 0 keeps the seed, later ones get one that depends on it and on nothing else."""
    if seed is None or choice == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}:{choice}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _choices(
    wire: ChatCompletionRequest | CompletionRequest,
    prompts: Sequence[Prompt],
    *,
    n: int,
    sampling: Sampling,
    bounds: Bounds,
    caller: Caller,
    adapter: str | None,
    request_id: str,
    arrived_s: float,
    prompt_logprobs: int | None = None,
) -> tuple[GenerateRequest, ...]:
    """One request a choice; choices of one prompt are adjacent."""
    stop = _stop(wire)
    age_s = time.perf_counter() - arrived_s
    deadline_at = None if wire.deadline_s is None else time.monotonic() + wire.deadline_s - age_s
    tenant = caller.tenant
    share = Share(
        tenant=tenant.name,
        weight=tenant.policy.weight,
        priority=tenant.policy.priority,
        prefix_scope=tenant.prefix_scope,
    )
    return tuple(
        GenerateRequest(
            request_id=request_id if len(prompts) * n == 1 else f"{request_id}-{index * n + choice}",
            prompt=prompt,
            sampling=_seeded(sampling, choice),
            max_tokens=bounds.max_tokens,
            max_context=bounds.max_context,
            stop=stop,
            ignore_eos=bool(wire.ignore_eos),
            share=share,
            adapter=adapter,
            prompt_logprobs=prompt_logprobs,
            deadline_at=deadline_at,
        )
        for index, prompt in enumerate(prompts)
        for choice in range(n)
    )


def _seeded(sampling: Sampling, choice: int) -> Sampling:
    if choice == 0 or sampling.seed is None:
        return sampling
    return msgspec.structs.replace(sampling, seed=choice_seed(sampling.seed, choice))


def _sampling(wire: ChatCompletionRequest | CompletionRequest, logprobs: int | None) -> Sampling:
    return Sampling(
        temperature=1.0 if wire.temperature is None else wire.temperature,
        top_p=1.0 if wire.top_p is None else wire.top_p,
        top_k=max(0, wire.top_k or 0),
        min_p=wire.min_p or 0.0,
        repetition_penalty=1.0 if wire.repetition_penalty is None else wire.repetition_penalty,
        presence_penalty=wire.presence_penalty or 0.0,
        frequency_penalty=wire.frequency_penalty or 0.0,
        seed=wire.seed,
        logit_bias=wire.logit_bias or {},
        logprobs=logprobs,
    )


def _stop(wire: ChatCompletionRequest | CompletionRequest) -> tuple[str, ...]:
    if wire.stop is None:
        return ()
    return (wire.stop,) if isinstance(wire.stop, str) else tuple(wire.stop)


def _include_usage(wire: ChatCompletionRequest | CompletionRequest, *, is_streamed: bool) -> bool:
    if wire.stream_options is None:
        return False
    if not is_streamed:
        raise InvalidRequest("stream_options needs stream to be true", param="stream_options")
    return bool(wire.stream_options.include_usage)


def _check_speculative(wire: ChatCompletionRequest | CompletionRequest) -> None:
    if wire.speculative is not None and wire.speculative.enabled:
        raise UnsupportedParameter("this model has no draft to speculate with", param="speculative.enabled")


def _chat_max_tokens(wire: ChatCompletionRequest) -> int | None:
    if wire.max_completion_tokens is None:
        return wire.max_tokens
    if wire.max_tokens not in (None, wire.max_completion_tokens):
        raise InvalidRequest("max_tokens and max_completion_tokens differ; give one of them", param="max_tokens")
    return wire.max_completion_tokens


def _chat_logprobs(wire: ChatCompletionRequest) -> int | None:
    if wire.logprobs:
        return wire.top_logprobs or 0
    if wire.top_logprobs:
        raise InvalidRequest("top_logprobs needs logprobs to be true", param="top_logprobs")
    return None


def _message(message: ChatMessage, index: int) -> Message:
    where = f"messages[{index}]"
    if message.role in ("tool", "function"):
        raise UnsupportedParameter(f"{where}.role {message.role!r}: {_NO_TOOLS}", param=f"{where}.role")
    refuse_unless(message.tool_calls, ([],), param=f"{where}.tool_calls", sentence=_NO_TOOLS)
    refuse_unless(message.function_call, (), param=f"{where}.function_call", sentence=_NO_TOOLS)
    refuse_unless(message.audio, (), param=f"{where}.audio", sentence="this model is text only")
    return Message(role=_ROLES.get(message.role, message.role), content=_content(message, where), name=message.name)


def _content(message: ChatMessage, where: str) -> str:
    """The text of a message; parts become lines."""
    content = message.content
    if content is None:
        raise InvalidRequest(f"{where}.content is required", param=f"{where}.content")
    if isinstance(content, str):
        return content
    texts = []
    for position, part in enumerate(content):
        at = f"{where}.content[{position}]"
        if part.type != "text":
            raise UnsupportedParameter(
                f"{at} is of type {part.type[:64]!r}, and this model is text only", param=f"{at}.type"
            )
        if part.text is None:
            raise InvalidRequest(f"{at}.text is required", param=f"{at}.text")
        texts.append(part.text)
    return "\n".join(texts)


def _prompts(wire: CompletionRequest) -> list[Prompt]:
    """A text, texts, one list of ids or lists of ids; never mixed, never more than 16."""
    given = wire.prompt
    if isinstance(given, str):
        return [TextPrompt(given)]
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        raise InvalidRequest("prompt mixes texts and token ids; send one kind", param="prompt")
    if kinds == {int}:
        return [TokenPrompt(tuple(item for item in given if isinstance(item, int)))]
    if len(given) > MAX_PROMPTS:
        raise InvalidRequest(
            f"prompt holds {len(given)} prompts, at most {MAX_PROMPTS} fit one request", param="prompt"
        )
    return [TextPrompt(item) if isinstance(item, str) else TokenPrompt(_ids(item)) for item in given]


def _ids(item: int | list[int]) -> tuple[int, ...]:
    return (item,) if isinstance(item, int) else tuple(item)
