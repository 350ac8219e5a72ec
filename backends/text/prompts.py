"""The one place where a prompt becomes token ids."""

from __future__ import annotations

from typing import NoReturn, assert_never

from backends.errors import ContextLengthExceeded, ModelError, RequestError
from backends.generation import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from backends.text.load import ModelText
from backends.text.special_tokens import Guard

_BYTES_PER_MESSAGE = 64  # the template's own text around a message, roughly
_BYTES_PER_TOKEN_ID = 8


class Prompts:
    """Encodes prompts for one model. Usable from several threads."""

    def __init__(self, text: ModelText, *, vocab_size: int, max_context: int) -> None:
        """`vocab_size` and `max_context` are the engine's. Raises `ModelError` if the tokenizer has more tokens."""
        if text.tokenizer.vocab_size > vocab_size:
            raise ModelError(
                f"the tokenizer has {text.tokenizer.vocab_size} tokens, but the model only {vocab_size}; "
                "they do not belong together"
            )
        self._tokenizer = text.tokenizer
        self._template = text.template
        self._vocab_size = vocab_size
        self._max_context = max_context
        source = "" if text.template is None else text.template.source
        self._guard = Guard(text.tokenizer.specials, template_source=source)
        self._bos_token = text.tokenizer.token_text(text.tokenizer.bos_id)
        self._eos_token = text.tokenizer.token_text(text.tokenizer.eos_id)

    def estimate_bytes(self, prompt: Prompt) -> int:
        """About how much text `encode` has to work on; more than 64 KiB belong off the event loop."""
        match prompt:
            case ChatPrompt():
                return sum(_estimate(message.content) + _BYTES_PER_MESSAGE for message in prompt.messages)
            case TextPrompt():
                return _estimate(prompt.text)
            case TokenPrompt():
                return _BYTES_PER_TOKEN_ID * len(prompt.token_ids)
            case _:
                assert_never(prompt)

    def encode(self, prompt: Prompt) -> list[int]:
        """Encode a prompt to at least one token id. Linear in the length of the prompt.

        Whether the ids fit the context is for the caller to check; here only a text that cannot fit is refused
        before it is tokenized. Raises `RequestError`, or its subclass `ContextLengthExceeded`.
        """
        match prompt:
            case ChatPrompt():
                return self._encode_chat(prompt)
            case TextPrompt():
                return self._encode_text(prompt)
            case TokenPrompt():
                return self._check_ids(prompt)
            case _:
                assert_never(prompt)

    def _encode_chat(self, prompt: ChatPrompt) -> list[int]:
        if self._template is None:
            raise RequestError("this model has no chat template; use /v1/completions instead", param="messages")
        if not prompt.messages:
            raise RequestError("messages must not be empty", param="messages")
        guarded = self._guard.protect(prompt.messages)
        rendered = self._template.render(guarded.messages, bos_token=self._bos_token, eos_token=self._eos_token)
        num_marks = rendered.count(guarded.mark) if guarded.mark else 0
        self._refuse_hopeless(len(rendered) - num_marks, param="messages")
        ids = self._tokenizer.encode_chat(rendered, mark=guarded.mark)
        if not ids:
            raise RequestError("the messages render to an empty prompt", param="messages")
        return ids

    def _encode_text(self, prompt: TextPrompt) -> list[int]:
        self._refuse_hopeless(len(prompt.text), param="prompt")
        ids = self._tokenizer.encode(prompt.text)
        if not ids:
            raise RequestError("prompt must not be empty", param="prompt")
        return ids

    def _check_ids(self, prompt: TokenPrompt) -> list[int]:
        if not prompt.token_ids:
            raise RequestError("prompt must not be empty", param="prompt")
        for token_id in prompt.token_ids:
            if not 0 <= token_id < self._vocab_size:
                _refuse_id(token_id, self._vocab_size)
        return list(prompt.token_ids)

    def _refuse_hopeless(self, num_characters: int, *, param: str) -> None:
        """A character is at least one byte, and a token at most `max_bytes_per_token`."""
        most = self._tokenizer.max_bytes_per_token
        if most is None or num_characters <= self._max_context * most:
            return
        raise ContextLengthExceeded(
            f"this model's maximum context length is {self._max_context} tokens, "
            f"but the prompt has at least {num_characters // most}; shorten the {param}",
            param=param,
        )


def _estimate(text: str) -> int:
    return len(text) if text.isascii() else 3 * len(text)


def _refuse_id(token_id: int, vocab_size: int) -> NoReturn:
    raise RequestError(f"token id {token_id} is not within 0 to {vocab_size - 1}", param="prompt")
