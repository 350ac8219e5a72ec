"""Chunks of a stream as bytes. What is the same in every chunk of a request is encoded once."""

from __future__ import annotations

import msgspec

from backends.generation import Delta, FinishReason, Usage
from gateway.api.convert import Plan
from gateway.api.schemas.usage import CompletionTokensDetails, PromptTokensDetails, UsageObject
from gateway.api.tokens import CompletionTokens, chat_logprobs

_encode = msgspec.json.Encoder().encode


class Frame(msgspec.Struct, frozen=True):
    """What surrounds the fields of every chunk on one transport."""

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

    def __init__(self, plan: Plan, frame: Frame) -> None:
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
        del prompt_text  # conversations are never echoed
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

    def __init__(self, plan: Plan, frame: Frame) -> None:
        super().__init__(plan, frame)
        self._tokens = [CompletionTokens() for _ in plan.requests]

    def opening(self, choice: int, prompt_text: str) -> bytes | None:
        """The prompt, if it is to be echoed."""
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


def chunks_of(plan: Plan, frame: Frame) -> ChatChunks | CompletionChunks:
    return ChatChunks(plan, frame) if plan.kind == "chat" else CompletionChunks(plan, frame)
