"""Index of cached prefixes by hash: which slots have their keys and values. Hashes are chained over blocks of tokens.

A sequence's tokens are hashed block by block, each with the hash of what comes before it. The chain starts from a
secret of this engine, the scope of the tenant and the adapter: no request finds what was computed for another scope or
with other weights, and no client input can change that.
"""

from __future__ import annotations

import secrets
from array import array
from hashlib import blake2b

import msgspec

from backends.kv import BLOCK_TOKENS
from gateway.batching.sequence import Sequence

_HASH_BYTES = 16


class HashChain:
    """Chained hashes of blocks of `block_tokens` tokens. A sequence stores its own hashes in `chain`."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._secret = secrets.token_bytes(32)

    def hash_of(self, sequence: Sequence, number: int) -> bytes:
        """Hash of block `number` of a sequence; call it for the blocks before that first."""
        chain = sequence.chain
        if number == len(chain):
            parent = chain[-1] if chain else self._root_of(sequence)
            chain.append(_hash(parent, array("I", self.block_of(sequence, number)).tobytes()))
        return chain[number]

    def block_of(self, sequence: Sequence, number: int) -> list[int]:
        """Token ids of block `number` of a sequence."""
        return sequence.token_ids[number * self.block_tokens : (number + 1) * self.block_tokens]

    def most_shared(self, sequence: Sequence) -> int:
        """Number of blocks that it may share: only full ones, and at least one token is left to compute."""
        return (sequence.num_known - 1) // self.block_tokens

    def _root_of(self, sequence: Sequence) -> bytes:
        return _hash(self._secret, repr((sequence.prefix_scope, sequence.adapter)).encode())


def _hash(parent: bytes, content: bytes) -> bytes:
    return blake2b(content, digest_size=_HASH_BYTES, key=parent).digest()


class CachedPrefix(msgspec.Struct):
    """Contents of one slot: keys and values of the first `len(chain)` blocks of `token_ids`, perhaps of more."""

    token_ids: list[int]
    chain: list[bytes]

    @property
    def num_tokens(self) -> int:
        return len(self.chain) * BLOCK_TOKENS


class PrefixMatch(msgspec.Struct, frozen=True):
    """Slots with the longest prefix of a prompt, at least one: its first `num_tokens` tokens."""

    places: tuple[int, ...]
    num_tokens: int


class PrefixIndex:
    """Cached prefixes by hash. Slots are plain numbers here; their owner gives them a meaning."""

    def __init__(self) -> None:
        self._hashes = HashChain(BLOCK_TOKENS)
        self._cached: dict[int, CachedPrefix] = {}
        self._places: dict[bytes, dict[int, None]] = {}

    def num_tokens_of(self, place: int) -> int:
        """Number of tokens cached in a slot, in full blocks."""
        kept = self._cached.get(place)
        return 0 if kept is None else kept.num_tokens

    def find(self, sequence: Sequence) -> PrefixMatch | None:
        """Slots with the longest cached prefix of a sequence; at least one token is left to compute."""
        most = self._hashes.most_shared(sequence)
        places: dict[int, None] = {}
        num_blocks = 0
        while num_blocks < most and (found := self._places.get(self._hashes.hash_of(sequence, num_blocks))) is not None:
            places, num_blocks = found, num_blocks + 1
        num_tokens = num_blocks * BLOCK_TOKENS
        tokens = sequence.token_ids[:num_tokens]
        same = tuple(place for place in places if self._cached[place].token_ids[:num_tokens] == tokens)
        return PrefixMatch(same, num_tokens) if same else None

    def learn(self, place: int, sequence: Sequence) -> None:
        """Note that the sequence has this slot, with keys and values for all of its computed tokens."""
        kept = self._cached.get(place)
        if kept is None:
            kept = self._cached[place] = CachedPrefix(sequence.token_ids, [])
        kept.token_ids = sequence.token_ids
        for number in range(len(kept.chain), sequence.num_computed // BLOCK_TOKENS):
            block = self._hashes.hash_of(sequence, number)
            kept.chain.append(block)
            self._places.setdefault(block, {})[place] = None

    def cut(self, place: int, num_tokens: int) -> None:
        """Keep only the first `num_tokens`, a number of full blocks; the rest is about to be overwritten."""
        kept = self._cached[place]
        for block in kept.chain[num_tokens // BLOCK_TOKENS :]:
            places = self._places[block]
            del places[place]
            if not places:
                del self._places[block]
        del kept.chain[num_tokens // BLOCK_TOKENS :]
        kept.token_ids = kept.token_ids[:num_tokens]

    def forget(self, place: int) -> None:
        """Forget all that is cached in a slot. Does nothing if nothing is known of it."""
        if place in self._cached:
            self.cut(place, 0)
            del self._cached[place]

    def check_integrity(self) -> None:
        """Raise `RuntimeError` if slots and hashes do not match."""
        by_place = {(block, place) for place, kept in self._cached.items() for block in kept.chain}
        by_hash = {(block, place) for block, places in self._places.items() for place in places}
        if by_place != by_hash:
            raise RuntimeError(f"{len(by_place ^ by_hash)} blocks are known to one side of the prefix cache alone")
