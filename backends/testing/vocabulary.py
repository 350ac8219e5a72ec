"""A small byte-level BPE vocabulary, the same on every machine: nothing is downloaded or sampled.

Ids: 256 bytes, then merges learnt from a few lines of text, then (for large sizes) merges of letters, then specials.
Every id but the specials stands for text, so random tokens can always be shown.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter
from collections.abc import Iterator
from functools import cache

import msgspec

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_TEXT = """
The hostel keeps one house for many guests. Every guest has a key, a bed and a shelf, and no guest reads the letters
of another. In the evening the cook asks what each of them would like, and the kitchen prepares all the dishes at once
instead of one after the other. Whoever arrives late finds the soup still warm; whoever leaves early pays only for
what was eaten. The house is quiet at night and the doors are locked, but the lamp over the entrance stays on.
A good question is short. A good answer says what is known, what is not known and where to look for the rest. When the
weather is bad the guests tell stories: about the river that forgot its way to the sea, about the clock that counted
backwards, about the woman who measured every mountain with a piece of string and was never wrong by more than a hand.
def step(batch): plan = schedule(batch); result = execute(plan); return commit(result)
{"model": "hostel", "messages": [{"role": "user", "content": "How many guests are in the house today?"}]}
"""


class Vocabulary(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens in byte-level spelling by id, without the specials, and the merges in order of rank."""

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @property
    def size(self) -> int:
        """Number of tokens with the specials, which follow the others."""
        return len(self.tokens) + len(SPECIALS)

    def special_id(self, special: str) -> int:
        return len(self.tokens) + SPECIALS.index(special)


@cache
def build_vocabulary(size: int) -> Vocabulary:
    """A vocabulary of exactly `size` ids, specials included. Raises `ValueError` outside 259 to 18,000."""
    num_merges = size - 256 - len(SPECIALS)
    if num_merges < 0 or size > 18_000:
        raise ValueError(f"vocabulary size {size} is not within 259 to 18000")
    alphabet = _byte_spelling()
    tokens = dict.fromkeys(alphabet)
    merges: list[tuple[str, str]] = []
    for left, right in itertools.chain(_learnt_merges(alphabet), _letter_merges()):
        if len(merges) == num_merges:
            break
        if left + right not in tokens:
            tokens[left + right] = None
            merges.append((left, right))
    return Vocabulary(tokens=tuple(tokens), merges=tuple(merges))


def _byte_spelling() -> list[str]:
    """The printable character that stands for each byte, by byte value (GPT-2's `bytes_to_unicode`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _learnt_merges(alphabet: list[str]) -> Iterator[tuple[str, str]]:
    """Byte-pair encoding learnt from `_TEXT`; ties go to the pair that sorts first."""
    words = Counter(tuple(alphabet[byte] for byte in (" " + word).encode()) for word in _TEXT.split())
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            return
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        yield best
        words = Counter({_merged(word, best): count for word, count in words.items()})


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    parts: list[str] = []
    for symbol in word:
        if parts and (parts[-1], symbol) == pair:
            parts[-1] += symbol
        else:
            parts.append(symbol)
    return tuple(parts)


def _letter_merges() -> Iterator[tuple[str, str]]:
    """All pairs of small letters, then all triples: filler for large vocabularies."""
    letters = string.ascii_lowercase
    pairs = ["".join(pair) for pair in itertools.product(letters, letters)]
    yield from itertools.product(letters, letters)
    yield from itertools.product(pairs, letters)
