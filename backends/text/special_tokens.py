"""Keeps what users typed from becoming the model's special tokens.

`Guard` marks messages. A mark is one private-use character that neither the messages nor the template contain. It goes

    <m|mem>m     after each character of a special token's text
    <|em         after a last character with which the text could begin a special token (the template may finish it)
    m|>          before a first character with which the text could finish one

`StandIns` encodes the rendered chat. A second tokenizer shares the model of the first, but its special tokens answer to
random names. The template's own special tokens are renamed before encoding, then the marks are taken out; what a user
typed is not renamed, and so stays text:

    template wrote  <|im_start|>    →  stand-in      →  the id of <|im_start|>
    user wrote      <m|mim_start…   →  <|im_start|>  →  ids of ordinary text
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Iterable, Sequence

import msgspec
import tokenizers

from backends.errors import RequestError, UnsupportedModel
from backends.generation import Message

_Trie = dict[str, "_Trie"]
_END = ""


def compile_literals(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern for the longest of `words` at a position; words that share a beginning share the work.

    A plain alternation tries every word at every position, which a crafted text makes slow. Without words, the
    pattern never matches. Words must be short: the pattern nests once a character.
    """
    root: _Trie = {}
    for word in words:
        node = root
        for character in word:
            node = node.setdefault(character, {})
        node[_END] = {}
    return re.compile(_pattern(root) if root else r"(?!)")


def _pattern(node: _Trie) -> str:
    branches = [re.escape(character) + _pattern(child) for character, child in node.items() if character != _END]
    if not branches:
        return ""
    group = branches[0] if len(branches) == 1 and _END not in node else f"(?:{'|'.join(branches)})"
    return f"{group}?" if _END in node else group


ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
"""Templates write roles into control tokens (`<|` + role + `|>`), so that a free role could forge one."""

_PRIVATE_USE = range(0xF0000, 0xFFFFE)


class Guarded(msgspec.Struct, frozen=True):
    """Messages ready for the template; `mark` is empty if nothing had to be marked."""

    messages: tuple[Message, ...]
    mark: str = ""


class Guard:
    """Knows the special tokens of one model. `template_source` keeps its characters from being the mark."""

    def __init__(self, specials: Collection[str], *, template_source: str = "") -> None:
        self._specials = compile_literals(specials)
        self._beginnings = frozenset(word[:end] for word in specials for end in range(1, len(word)))
        self._endings = frozenset(word[start:] for word in specials for start in range(1, len(word)))
        self._longest = max(map(len, specials), default=1)
        self._template_characters = frozenset(template_source)

    def protect(self, messages: Sequence[Message]) -> Guarded:
        """Raises `RequestError` for a role that is not in `ROLES`."""
        for message in messages:
            if message.role not in ROLES:
                raise RequestError(f"role {message.role!r} is not one of {', '.join(sorted(ROLES))}", param="messages")
        if not any(self._is_risky(text) for message in messages for text in (message.content, message.name) if text):
            return Guarded(tuple(messages))
        mark = self._choose_mark(messages)
        return Guarded(tuple(self._marked_message(message, mark) for message in messages), mark)

    def _is_risky(self, text: str) -> bool:
        return bool(self._begins_special(text) or self._ends_special(text) or self._specials.search(text))

    def _begins_special(self, text: str) -> bool:
        """True if `text`, but for space at its end, ends with the beginning of a special token."""
        tail = text.rstrip()[-self._longest :]
        return any(tail[start:] in self._beginnings for start in range(len(tail)))

    def _ends_special(self, text: str) -> bool:
        head = text.lstrip()[: self._longest]
        return any(head[:end] in self._endings for end in range(1, len(head) + 1))

    def _choose_mark(self, messages: Sequence[Message]) -> str:
        used = self._template_characters.union(*(message.content + (message.name or "") for message in messages))
        mark = next((chr(point) for point in _PRIVATE_USE if chr(point) not in used), None)
        if mark is None:
            raise RequestError("the messages use every private-use character of Unicode", param="messages")
        return mark

    def _marked_message(self, message: Message, mark: str) -> Message:
        name = None if message.name is None else self._marked(message.name, mark)
        return msgspec.structs.replace(message, content=self._marked(message.content, mark), name=name)

    def _marked(self, text: str, mark: str) -> str:
        def interleaved(found: re.Match[str]) -> str:
            return "".join(character + mark for character in found[0])

        # Marks never become the outermost character next to space, so that templates can still trim.
        begins, ends = self._begins_special(text), self._ends_special(text)
        marked = self._specials.sub(interleaved, text)
        if begins:
            kept = marked.rstrip()
            marked = kept + mark + marked[len(kept) :]
        if ends:
            kept = marked.lstrip()
            marked = marked[: len(marked) - len(kept)] + mark + kept
        return marked


MAX_SPECIAL_CHARACTERS = 200
"""Length of the text of a special token, several times the longest known one."""


class StandIns:
    """Encodes text whose special tokens were marked by `Guard`."""

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
        """A name that no user can guess; it shares no character with the marks of `Guard`."""
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
