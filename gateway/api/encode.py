"""Encodes tokens, log-probabilities and the chunks of a stream. The parts common to all chunks are encoded once."""

from __future__ import annotations

import codecs

import msgspec

from backends.generation import Delta, FinishReason, TokenLogprob, Usage
from gateway.api.convert import RequestPlan
from gateway.api.schemas.chat import ChatLogprobs, TokenLogprobObject, TopLogprob
from gateway.api.schemas.common import CompletionTokensDetails, PromptTokensDetails, UsageObject
from gateway.api.schemas.completions import CompletionLogprobs

_LOWEST = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot express."""


def chat_logprobs(tokens: tuple[TokenLogprob, ...]) -> ChatLogprobs:
    return ChatLogprobs([_token(token) for token in tokens])


class CompletionTokens:
    """Log-probabilities of one choice of `/v1/completions`; tracks how much text came before."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._num_characters = 0

    def take(self, tokens: tuple[TokenLogprob, ...], *, with_top: bool) -> CompletionLogprobs:
        return CompletionLogprobs(
            tokens=[token_text(token.utf8) for token in tokens],
            token_logprobs=[None if token.logprob is None else _finite(token.logprob) for token in tokens],
            top_logprobs=[_top_by_text(token) for token in tokens] if with_top else None,
            text_offset=[self._offset(token) for token in tokens],
        )

    def _offset(self, token: TokenLogprob) -> int:
        before = self._num_characters
        self._num_characters += len(self._decoder.decode(token.utf8))
        return before


def token_text(utf8: bytes) -> str:
    r"""Text of one token, or `bytes:\xe2\x82` where it contains part of a character."""
    try:
        return utf8.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in utf8)


def _token(token: TokenLogprob) -> TokenLogprobObject:
    assert token.logprob is not None  # prompts of chats are not scored
    return TokenLogprobObject(
        token=token_text(token.utf8),
        logprob=_finite(token.logprob),
        bytes=list(token.utf8),
        top_logprobs=[
            TopLogprob(token=token_text(utf8), logprob=_finite(logprob), bytes=list(utf8))
            for _, utf8, logprob in token.top
        ],
    )


def _top_by_text(token: TokenLogprob) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    return {token_text(utf8): _finite(logprob) for _, utf8, logprob in token.top}


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)


_encode = msgspec.json.Encoder().encode


class Frame(msgspec.Struct, frozen=True):
    """Prefix and suffix of every chunk on one transport."""

    opening: bytes
    closing: bytes


SSE = Frame(b"data: {", b"}\n\n")


def socket_frame(request_id: str) -> Frame:
    return Frame(b'{"request_id":' + _encode(request_id) + b",", b"}")


def usage_object(usage: Usage) -> UsageObject:
    return UsageObject(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
        prompt_tokens_details=PromptTokensDetails(usage.cached_tokens),
        completion_tokens_details=CompletionTokensDetails(usage.accepted_prediction_tokens),
    )


class Chunks:
    """Encodes the chunks of one request; common to chat and completions."""

    object: str

    def __init__(self, plan: RequestPlan, frame: Frame) -> None:
        self._plan = plan
        named = {"id": plan.id, "object": self.object, "created": plan.created, "model": plan.model}
        head = frame.opening + _encode(named)[1:-1] + b',"choices":['
        tail = b',"usage":null' + frame.closing if plan.include_usage else frame.closing
        self._head, self._frame = head, frame
        self._choice_head = [head + b'{"index":%d,' % index for index in range(len(plan.requests))]
        self._tail = b"}]" + tail

    def usage(self, usage: Usage) -> bytes:
        """The last chunk, without choices."""
        return self._head + b'],"usage":' + _encode(usage_object(usage)) + self._frame.closing


class ChatChunks(Chunks):
    object = "chat.completion.chunk"

    def opening(self, choice: int, prompt_text: str) -> bytes | None:
        del prompt_text  # chats are never echoed
        fields = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null'
        return self._choice_head[choice] + fields + self._tail

    def delta(self, choice: int, delta: Delta) -> bytes:
        logprobs = _encode(chat_logprobs(delta.logprobs)) if delta.logprobs else b"null"
        return b"".join(
            (
                self._choice_head[choice],
                b'"delta":{"content":',
                _encode(delta.text),
                b'},"logprobs":',
                logprobs,
                b',"finish_reason":null',
                self._tail,
            )
        )

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        return (
            self._choice_head[choice]
            + b'"delta":{},"logprobs":null,"finish_reason":"%b"' % reason.encode()
            + self._tail
        )


class CompletionChunks(Chunks):
    object = "text_completion"

    def __init__(self, plan: RequestPlan, frame: Frame) -> None:
        super().__init__(plan, frame)
        self._tokens = [CompletionTokens() for _ in plan.requests]

    def opening(self, choice: int, prompt_text: str) -> bytes | None:
        """Chunk with the prompt, if it is to be echoed."""
        return self._text(choice, prompt_text, b"null", b"null") if self._plan.echo else None

    def delta(self, choice: int, delta: Delta) -> bytes:
        if not delta.logprobs:
            return self._text(choice, delta.text, b"null", b"null")
        logprobs = self._tokens[choice].take(delta.logprobs, with_top=bool(self._plan.logprobs))
        return self._text(choice, delta.text, _encode(logprobs), b"null")

    def finish(self, choice: int, reason: FinishReason) -> bytes:
        return self._text(choice, "", b"null", b'"%b"' % reason.encode())

    def _text(self, choice: int, text: str, logprobs: bytes, finish_reason: bytes) -> bytes:
        return b"".join(
            (
                self._choice_head[choice],
                b'"text":',
                _encode(text),
                b',"logprobs":',
                logprobs,
                b',"finish_reason":',
                finish_reason,
                self._tail,
            )
        )


def chunks_of(plan: RequestPlan, frame: Frame) -> ChatChunks | CompletionChunks:
    return ChatChunks(plan, frame) if plan.kind == "chat" else CompletionChunks(plan, frame)
