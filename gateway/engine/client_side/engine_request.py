"""From a request and its token ids to what the engine is asked: limits checked, end tokens and seed decided."""

from __future__ import annotations

import secrets
import time

from backends.errors import ContextLengthExceeded, DeadlineExceeded, RequestError
from backends.generation import ChatPrompt, GenerateRequest
from gateway.batching.messages import Add
from gateway.engine.messages import Ready

_MASK64 = (1 << 64) - 1


def check_request(request: GenerateRequest, facts: Ready) -> None:
    """Raises `RequestError` for what no prompt could make right."""
    if request.adapter is not None and request.adapter not in facts.adapters:
        raise RequestError(f"this engine has no adapter {request.adapter!r}; name another model", param="model")
    for token_id in request.sampling.logit_bias:
        if not 0 <= token_id < facts.vocab_size:
            raise RequestError(
                f"logit_bias: token id {token_id} is not within 0 to {facts.vocab_size - 1}", param="logit_bias"
            )


def seconds_left(request: GenerateRequest) -> float | None:
    """Until its deadline, if it has one. Raises `DeadlineExceeded` if that has passed."""
    if request.deadline_at is None:
        return None
    left_s = request.deadline_at - time.monotonic()
    if left_s <= 0:
        raise DeadlineExceeded("the deadline passed before the request could begin", param="deadline_s")
    return left_s


def max_new_tokens(request: GenerateRequest, *, num_prompt: int, max_context: int) -> int:
    """Tokens to generate at most; without a wish, until the context is full. Raises `ContextLengthExceeded`."""
    owner = "model"
    if request.max_context is not None and request.max_context < max_context:
        owner, max_context = "tenant", request.max_context
    wanted = 1 if request.max_tokens is None else request.max_tokens
    if wanted < 0:
        raise RequestError(f"max_tokens must not be negative, but is {wanted}", param="max_tokens")
    surplus = num_prompt + wanted - max_context
    if surplus <= 0:
        return max_context - num_prompt if request.max_tokens is None else wanted
    limit = f"This {owner}'s maximum context length is {max_context} tokens"
    if num_prompt >= max_context or wanted <= 1:
        least = num_prompt + min(wanted, 1) - max_context
        raise ContextLengthExceeded(
            f"{limit}, but the prompt has {num_prompt}; shorten it by at least {least} tokens, so that an answer fits",
            param="messages" if isinstance(request.prompt, ChatPrompt) else "prompt",
        )
    raise ContextLengthExceeded(
        f"{limit}, but the prompt has {num_prompt} and max_tokens asks for {wanted} more; "
        f"lower max_tokens to {max_context - num_prompt} or shorten the prompt by at least {surplus} tokens",
        param="max_tokens",
    )


def make_add(request: GenerateRequest, token_ids: list[int], *, max_tokens: int, eos_ids: tuple[int, ...]) -> Add:
    """What the engine is sent; its id is the client's to choose. A missing seed is drawn here: a replay repeats it."""
    seed, deadline_at = request.sampling.seed, request.deadline_at
    return Add(
        id=0,
        token_ids=tuple(token_ids),
        max_tokens=max_tokens,
        sampling=request.sampling,
        seed=secrets.randbits(63) if seed is None else seed & _MASK64,
        stop_token_ids=() if request.ignore_eos else eos_ids,
        share=request.share,
        adapter=request.adapter,
        prompt_logprobs=request.prompt_logprobs,
        deadline_s=None if deadline_at is None else max(0.0, deadline_at - time.monotonic()),
    )
