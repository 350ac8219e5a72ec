"""Encodes a rendered chat in which the user typed the text of special tokens.

A second tokenizer shares the model of the first, but its special tokens answer to random names. The template's own
special tokens are renamed before encoding; what a user typed is not, and so stays text:

    template wrote  <|im_start|>  →  stand-in      →  the id of <|im_start|>
    user wrote      <|im_start|>  →  <|im_start|>  →  ids of ordinary text
"""

from __future__ import annotations

import re
import secrets

import tokenizers

from backends.errors import RequestError, UnsupportedModel
from backends.text.guard import compile_literals

_BARRED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)


def looks_like_control(token: str) -> bool:
    """Whether a token is spelled `<|…|>` or `<｜…｜>`, as turn markers are (llama.cpp's converter judges alike)."""
    return _BARRED.fullmatch(token) is not None


MAX_SPECIAL_CHARACTERS = 200
"""Length of the text of a special token, several times the longest known one."""


class StandIns:
    """Encodes text whose special tokens were marked by `backends.text.guard`."""

    def __init__(self, engine: tokenizers.Tokenizer, *, unknown_id: int | None) -> None:
        """Raises `UnsupportedModel` if ids have gaps, because new tokens would then take the ids of others."""
        vocabulary = engine.get_vocab(with_added_tokens=False)
        if vocabulary and max(vocabulary.values()) >= len(vocabulary):
            raise UnsupportedModel("token ids of the vocabulary have gaps; number them from 0 without a gap")
        self._names: dict[str, str] = {}
        self._id_by_own_id: dict[int, int] = {}
        self._engine = _empty_copy(engine)
        for token_id, added in sorted(engine.get_added_tokens_decoder().items()):
            self._add(token_id, added)
        special_ids = {token_id for token_id, added in engine.get_added_tokens_decoder().items() if added.special}
        self._forged_ids = special_ids - {unknown_id} - self._engine.get_added_tokens_decoder().keys()
        # One character cannot be broken by a mark, so it is text here, whoever wrote it.
        self._specials = compile_literals(name for name in self._names if len(name) > 1)

    @property
    def specials(self) -> frozenset[str]:
        """The texts of all special tokens."""
        return frozenset(self._names)

    def encode(self, rendered: str, mark: str) -> list[int]:
        """Token ids of `rendered` without `mark`, in which special tokens broken by `mark` are ordinary text.

        Raises `RequestError` if the model's vocabulary makes a special token even from ordinary text.
        """
        text = self._specials.sub(self._stand_in, rendered).replace(mark, "")
        own_ids = self._engine.encode(text, add_special_tokens=False).ids
        if not self._forged_ids.isdisjoint(own_ids):
            raise RequestError("a message contains a special token, which this model cannot read as text")
        return [self._id_by_own_id.get(own_id, own_id) for own_id in own_ids]

    def _add(self, token_id: int, added: tokenizers.AddedToken) -> None:
        name = self._name(added.content) if added.special else added.content
        self._engine.add_tokens([_renamed(added, name)])
        own_id = self._engine.token_to_id(name)
        if own_id is not None and own_id != token_id:
            self._id_by_own_id[own_id] = token_id

    def _name(self, content: str) -> str:
        """A name that no user can guess; it shares no character with the marks of `backends.text.guard`."""
        if len(content) > MAX_SPECIAL_CHARACTERS:
            raise UnsupportedModel(
                f"special token {content[:20]!r}… has {len(content)} characters; at most {MAX_SPECIAL_CHARACTERS}"
            )
        self._names[content] = f"\U00100000{secrets.token_hex(16)}\U00100001"
        return self._names[content]

    def _stand_in(self, found: re.Match[str]) -> str:
        return self._names[found[0]]


def _empty_copy(engine: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same model, shared and not copied, without any added token."""
    copy = tokenizers.Tokenizer(engine.model)
    if engine.normalizer is not None:
        copy.normalizer = engine.normalizer
    if engine.pre_tokenizer is not None:
        copy.pre_tokenizer = engine.pre_tokenizer
    return copy


def _renamed(added: tokenizers.AddedToken, name: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        name,
        lstrip=added.lstrip,
        rstrip=added.rstrip,
        single_word=added.single_word and not added.special,
        normalized=added.normalized and not added.special,
        special=added.special,
    )
