"""Conversations to padded batches; sorting by length inside a pool keeps the padding small."""

import random
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor

from gateway.demo.chatml import Conversation
from gateway.demo.tokenizer import Row, encode

POOL_BATCHES = 8
IGNORED = -100


def batches(
    tokenizer: Tokenizer, conversations: Iterator[Conversation], *, rows: int, context: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs of (ids, targets), both [rows, length]; a target is the next id, or IGNORED outside answers."""
    rng = random.Random(seed)  # noqa: S311  # seeded and public by intent
    while True:
        pool = [_row(tokenizer, next(conversations), context) for _ in range(rows * POOL_BATCHES)]
        pool.sort(key=lambda row: len(row[0]))
        starts = list(range(0, len(pool), rows))
        rng.shuffle(starts)
        yield from (_pad(pool[start : start + rows]) for start in starts)


def _row(tokenizer: Tokenizer, conversation: Conversation, context: int) -> Row:
    ids, is_answer = encode(tokenizer, conversation)
    return ids[:context], is_answer[:context]


def _pad(rows: list[Row]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    padded = torch.zeros((len(rows), length), dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED)
    for i, (ids, is_answer) in enumerate(rows):
        tokens = torch.tensor(ids)
        padded[i, : len(ids)] = tokens
        targets[i, : len(ids) - 1] = torch.where(torch.tensor(is_answer[1:]), tokens[1:], IGNORED)
    return padded, targets
