"""Deltas folded into one whole answer."""

from __future__ import annotations

import msgspec

from backends.generation import Delta, Done, FinishReason, Started, TokenLogprob, Usage
from gateway.api.chunks import usage_object
from gateway.api.convert import Plan
from gateway.api.schemas.chat import AssistantMessage, ChatChoice, ChatCompletion
from gateway.api.schemas.completions import Completion, CompletionChoice
from gateway.api.tokens import CompletionTokens, chat_logprobs

_encode = msgspec.json.Encoder().encode


class _Choice:
    """What has come of one choice."""

    def __init__(self, text: str) -> None:
        self.pieces = [text] if text else []
        self.logprobs: list[TokenLogprob] = []
        self.finish_reason: FinishReason = "stop"

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Fold:
    """Collects the events of every choice of a plan."""

    def __init__(self, plan: Plan, started: list[Started]) -> None:
        self._plan = plan
        self._choices = [_Choice(each.prompt_text if plan.echo else "") for each in started]

    def take(self, choice: int, event: Delta | Done) -> None:
        collected = self._choices[choice]
        if isinstance(event, Done):
            collected.finish_reason = event.finish_reason
            return
        collected.pieces.append(event.text)
        collected.logprobs += event.logprobs

    def body(self, usage: Usage) -> bytes:
        """The answer as JSON, once every choice is done."""
        return _encode(self._chat(usage) if self._plan.kind == "chat" else self._completion(usage))

    def _chat(self, usage: Usage) -> ChatCompletion:
        plan = self._plan
        choices = [
            ChatChoice(
                index=index,
                message=AssistantMessage(content=each.text),
                logprobs=None if plan.logprobs is None else chat_logprobs(tuple(each.logprobs)),
                finish_reason=each.finish_reason,
            )
            for index, each in enumerate(self._choices)
        ]
        return ChatCompletion(
            id=plan.id, created=plan.created, model=plan.model, choices=choices, usage=usage_object(usage)
        )

    def _completion(self, usage: Usage) -> Completion:
        plan = self._plan
        choices = [
            CompletionChoice(
                index=index,
                text=each.text,
                logprobs=None
                if plan.logprobs is None
                else CompletionTokens().take(tuple(each.logprobs), with_top=bool(plan.logprobs)),
                finish_reason=each.finish_reason,
            )
            for index, each in enumerate(self._choices)
        ]
        return Completion(
            id=plan.id,
            object="text_completion",
            created=plan.created,
            model=plan.model,
            choices=choices,
            usage=usage_object(usage),
        )
