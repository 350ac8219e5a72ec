"""Text to token ids, and token ids to text while they arrive."""

from __future__ import annotations

import codecs
from collections.abc import Generator, Iterable
from contextlib import contextmanager

import tokenizers

from backends.errors import BackendError, ModelError, RequestError
from backends.text.special_tokens import StandIns

_new_decoder = codecs.getincrementaldecoder("utf-8")


@contextmanager
def vocabulary_faults(where: str) -> Generator[None]:
    """Turn every fault of the block into a `ModelError` that begins with `where`.

    The library raises bare `Exception`, and where it is less careful its Rust code panics, which is no `Exception`.
    """
    try:
        yield
    except BackendError:
        raise
    except Exception as error:
        raise ModelError(f"{where}: {error}") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # the class cannot be imported
            raise
        raise ModelError(f"{where}: the tokenizers library fails on this vocabulary: {error}") from error


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


class Tokenizer:
    """One model's vocabulary. Immutable, usable from several threads; encoding releases the interpreter lock.

    Made by `backends.text.load`. `token_bytes` is indexed by id; an id without a token stands for no bytes.
    """

    def __init__(
        self,
        engine: tokenizers.Tokenizer,
        *,
        token_bytes: tuple[bytes, ...],
        bos_id: int | None,
        eos_id: int | None,
        prefix_ids: tuple[int, ...] = (),
        unknown_id: int | None = None,
        covers_own_bytes: bool = False,
    ) -> None:
        """`prefix_ids` begin every prompt; `covers_own_bytes`: no token stands for more text than its own bytes."""
        self._engine = engine
        self._token_bytes = token_bytes
        self._prefix = list(prefix_ids)
        self._stand_ins = StandIns(engine, unknown_id=unknown_id)
        added = engine.get_added_tokens_decoder()
        self._special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.bos_id = bos_id
        self.eos_id = eos_id
        self.max_bytes_per_token = max(map(len, token_bytes), default=0) if covers_own_bytes else None
        """Most bytes of text that one token can stand for; `None` if the vocabulary sets no limit."""

    @property
    def vocab_size(self) -> int:
        """One more than the greatest token id."""
        return len(self._token_bytes)

    @property
    def specials(self) -> frozenset[str]:
        """The texts of all special tokens."""
        return self._stand_ins.specials

    def encode(self, text: str) -> list[int]:
        """Token ids of raw text, with BOS where the model wants one; special tokens in the text are parsed.

        Raises `RequestError` for a string that is not valid Unicode.
        """
        return self._prefix + self._parse(text)

    def encode_chat(self, rendered: str, *, mark: str = "") -> list[int]:
        """Token ids of what a chat template rendered; BOS is added only if the template has not written it.

        With `mark` (see `backends.text.special_tokens`), special tokens that are broken by it are ordinary text.
        """
        ids = self._stand_ins.encode(rendered, mark) if mark else self._parse(rendered)
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes of a token, specials included; none for an id beyond the vocabulary."""
        return self._token_bytes[token_id] if 0 <= token_id < len(self._token_bytes) else b""

    def token_text(self, token_id: int | None) -> str:
        """A token as template variables such as `bos_token` hold it; empty for `None`."""
        return "" if token_id is None else self.token_bytes(token_id).decode("utf-8", "replace")

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def _parse(self, text: str) -> list[int]:
        try:
            # Twice as fast as `encode`, because it keeps no offsets.
            (encoding,) = self._engine.encode_batch_fast([text], add_special_tokens=False)
        except TypeError as error:
            raise RequestError("the text is not valid Unicode: it holds half of a surrogate pair") from error
        ids: list[int] = encoding.ids
        return ids
