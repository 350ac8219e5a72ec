"""Token ids to text while they arrive."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from gateway.text.tokenizer import Tokenizer

_new_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """Text of one sequence; constant work a token.

    Joined, the returned texts are exactly the tokens' bytes decoded as UTF-8, invalid ones replaced. A character that
    is not complete is held back. SentencePiece models spell a space before the first word; it is kept.
    """

    def __init__(self, tokenizer: Tokenizer, *, show_specials: bool = False) -> None:
        self._tokenizer = tokenizer
        self._show_specials = show_specials
        self._decoder = _new_decoder(errors="replace")

    def push(self, token_ids: Iterable[int]) -> str:
        """The text that these tokens complete; may be empty."""
        return self._decoder.decode(b"".join(map(self._shown_bytes, token_ids)))

    def flush(self) -> str:
        """The rest: at most one character, replaced because it was never completed. Call once, at the end."""
        return self._decoder.decode(b"", final=True)

    def _shown_bytes(self, token_id: int) -> bytes:
        if not self._show_specials and self._tokenizer.is_special(token_id):
            return b""
        return self._tokenizer.token_bytes(token_id)
