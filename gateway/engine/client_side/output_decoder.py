"""Decodes the engine's tokens to the events of one request: text, stop strings, log-probabilities, usage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from backends.generation import Delta, Done, Event, Failed, FinishReason, TokenLogprob, Usage
from backends.text.stop import StopMatcher
from backends.text.tokenizer import Detokenizer, Tokenizer
from gateway.batching.messages import Logprob, Output


class OutputDecoder:
    """Decodes one sequence, from its first output to `Done` or `Failed`.

    A token is counted when it is decoded: tokens that the engine produced after a stop string are not charged. A stop
    token is counted but never shown.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, prompt_ids: Sequence[int], stops: Sequence[str], is_scored: bool = False
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt_ids = prompt_ids
        self._is_scored = is_scored
        self._detokenizer = Detokenizer(tokenizer)
        self._matcher = StopMatcher(stops)
        self._num_prompt = len(prompt_ids)
        self._num_cached = 0
        self._num_tokens = 0
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self.is_finished = False

    @property
    def usage(self) -> Usage:
        """Usage up to now."""
        return Usage(prompt_tokens=self._num_prompt, completion_tokens=self._num_tokens, cached_tokens=self._num_cached)

    def take(self, outputs: list[Output]) -> list[Event]:
        """Decode to at most one `Delta` for all outputs together, then the end if they have it; the last call then.

        Prompt log-probabilities come first, in a delta of their own.
        """
        scores = self._scores(outputs)
        for output in outputs:
            end = self._take_one(output)
            if end is not None:
                self.is_finished = True
                return [*scores, *self._delta(), end]
        return [*scores, *self._delta()]

    def _scores(self, outputs: list[Output]) -> list[Event]:
        """Prompt scores as events; they come with the first output, unless that is an error."""
        if not self._is_scored or outputs[0].error is not None:
            return []
        self._is_scored = False
        first, *others = self._prompt_ids
        logprobs = outputs[0].prompt_logprobs
        scored = [self._with_bytes(token, logprob) for token, logprob in zip(others, logprobs, strict=True)]
        return [Delta("", logprobs=(TokenLogprob(first, self._tokenizer.token_bytes(first), None), *scored))]

    def _take_one(self, output: Output) -> Done | Failed | None:
        self._num_cached = max(self._num_cached, output.cached_tokens)
        shown = output.token_ids
        if output.finish_reason == "stop":
            shown = shown[:-1]
        for place, token_id in enumerate(shown):
            if self._show(token_id, output.logprobs[place] if output.logprobs else None):
                return self._done("stop")
        self._num_tokens += len(output.token_ids) - len(shown)
        if output.error is not None:
            return Failed(output.error.code, output.error.message, self.usage)
        if output.finish_reason is None:
            return None
        return self._done(self._flush("stop" if output.finish_reason == "stop" else "length"))

    def _show(self, token_id: int, logprob: Logprob | None) -> bool:
        """Append a token's text. True if a stop string is complete."""
        self._num_tokens += 1
        self._token_ids.append(token_id)
        if logprob is not None:
            self._logprobs.append(self._with_bytes(token_id, logprob))
        return self._push(self._detokenizer.push((token_id,)))

    def _push(self, text: str) -> bool:
        safe, is_stopped = self._matcher.push(text)
        self._texts.append(safe)
        return is_stopped

    def _flush(self, reason: FinishReason) -> FinishReason:
        """Show the text held back for stop strings; even that may complete one."""
        if self._push(self._detokenizer.flush()):
            return "stop"
        self._texts.append(self._matcher.flush())
        return reason

    def _delta(self) -> list[Event]:
        text = "".join(self._texts)
        if not text and not self._token_ids:
            return []
        delta = Delta(text, tuple(self._token_ids), tuple(self._logprobs))
        self._texts, self._token_ids, self._logprobs = [], [], []
        return [delta]

    def _done(self, reason: Literal["stop", "length"]) -> Done:
        return Done(reason, self.usage)

    def _with_bytes(self, token_id: int, logprob: Logprob) -> TokenLogprob:
        spell = self._tokenizer.token_bytes
        top = tuple((other, spell(other), value) for other, value in logprob.top)
        return TokenLogprob(token_id, spell(token_id), logprob.logprob, top)
