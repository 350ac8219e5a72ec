"""How tokens and their log-probabilities read on the wire."""

from __future__ import annotations

import codecs

from backends.generation import TokenLogprob
from gateway.api.schemas.chat import ChatLogprobs, TokenLogprobObject, TopLogprob
from gateway.api.schemas.completions import CompletionLogprobs

_LOWEST = -9999.0
"""OpenAI's stand-in for minus infinity, which JSON cannot say."""


def chat_logprobs(tokens: tuple[TokenLogprob, ...]) -> ChatLogprobs:
    return ChatLogprobs([_token(token) for token in tokens])


class CompletionTokens:
    """Log-probabilities of one choice of `/v1/completions`, which need to know how much text came before."""

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
    r"""Text of one token, or `bytes:\xe2\x82` where it holds part of a character."""
    try:
        return utf8.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in utf8)


def _token(token: TokenLogprob) -> TokenLogprobObject:
    assert token.logprob is not None  # prompts of conversations are not scored
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
