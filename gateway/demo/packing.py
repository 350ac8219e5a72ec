"""Conversations to padded batches of about equal cost; sorting by length inside a pool keeps the padding small."""

import random
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer
from torch import Tensor

from gateway.demo.chatml import Conversation
from gateway.demo.tokenizer import Row, encode

POOL_ROWS = 256
IGNORED = -100


def batches(
    tokenizer: Tokenizer, conversations: Iterator[Conversation], *, tokens: int, context: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs of (ids, targets), both [rows, length] with at most `tokens` places unless one row is longer.

    A target is the next id, or IGNORED outside answers.
    """
    rng = random.Random(seed)  # noqa: S311  # seeded and public by intent
    while True:
        pool = [_row(tokenizer, next(conversations), context) for _ in range(POOL_ROWS)]
        pool.sort(key=lambda row: len(row[0]))
        cuts = list(_cut(pool, tokens))
        rng.shuffle(cuts)
        yield from (_pad(rows) for rows in cuts)


def _row(tokenizer: Tokenizer, conversation: Conversation, context: int) -> Row:
    ids, is_answer = encode(tokenizer, conversation)
    return ids[:context], is_answer[:context]


def _cut(pool: list[Row], tokens: int) -> Iterator[list[Row]]:
    """Cut rows sorted by length into runs that fill at most `tokens` places once padded."""
    batch: list[Row] = []
    for row in pool:
        if batch and (len(batch) + 1) * len(row[0]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _pad(rows: list[Row]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    padded = torch.zeros((len(rows), length), dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED)
    for i, (ids, is_answer) in enumerate(rows):
        tokens = torch.tensor(ids)
        padded[i, : len(ids)] = tokens
        targets[i, : len(ids) - 1] = torch.where(torch.tensor(is_answer[1:]), tokens[1:], IGNORED)
    return padded, targets
