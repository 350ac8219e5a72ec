"""Equal hashes mean equal beginnings of prompts, for those who may share them.

A sequence's tokens are hashed block by block, each with the hash of what comes before it. The chain starts from a
secret of this engine, the scope of the tenant and the adapter: nobody finds what was computed for another scope or
with other weights, and nothing that a client sends has a say in it.
"""

from __future__ import annotations

import secrets
from array import array
from hashlib import blake2b

from gateway.batching.sequence import Sequence

_HASH_BYTES = 16


class HashChain:
    """Of blocks of `block_tokens` tokens. A sequence keeps its own hashes in `chain`."""

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._secret = secrets.token_bytes(32)

    def hash_of(self, sequence: Sequence, number: int) -> bytes:
        """Of its block of that number; blocks before it have been asked for already."""
        chain = sequence.chain
        if number == len(chain):
            parent = chain[-1] if chain else self._root_of(sequence)
            chain.append(_hash(parent, array("I", self.block_of(sequence, number)).tobytes()))
        return chain[number]

    def block_of(self, sequence: Sequence, number: int) -> list[int]:
        """Token ids of its block of that number."""
        return sequence.token_ids[number * self.block_tokens : (number + 1) * self.block_tokens]

    def most_shared(self, sequence: Sequence) -> int:
        """Blocks that it may find elsewhere: whole ones, and at least one token is left to compute."""
        return (sequence.num_known - 1) // self.block_tokens

    def _root_of(self, sequence: Sequence) -> bytes:
        return _hash(self._secret, repr((sequence.scope, sequence.adapter)).encode())


def _hash(parent: bytes, content: bytes) -> bytes:
    return blake2b(content, digest_size=_HASH_BYTES, key=parent).digest()
