"""One sequence at a time: the same logits however its tokens are cut into steps."""

from __future__ import annotations

from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject

_LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 96)
_CHUNKED = random_tokens(21, seed=41)


def check_prefill(bench: KitBench) -> None:
    subject = bench.subject()
    for length in (*(length for length in _LENGTHS if length <= subject.context), subject.context):
        sequence = subject.open()
        subject.confirm(KitPart(sequence, random_tokens(length, seed=length)), what=f"a prefill of {length} tokens")
        subject.close(sequence)


def check_chunks(bench: KitBench) -> None:
    subject = bench.subject()
    for split in range(1, len(_CHUNKED)):
        _confirm_pieces(subject, [_CHUNKED[:split], _CHUNKED[split:]], what=f"a prefill split after {split} tokens")
    thirds = [_CHUNKED[:3], _CHUNKED[3:17], _CHUNKED[17:]]
    _confirm_pieces(subject, thirds, what="a prefill in three pieces")
    _confirm_at_block_edges(subject)


def _confirm_at_block_edges(subject: KitSubject) -> None:
    edge = subject.plan.block_tokens if subject.is_paged else subject.context // 2
    tokens = random_tokens(edge + 7, seed=42)
    for split in (edge - 1, edge, edge + 1):
        _confirm_pieces(subject, [tokens[:split], tokens[split:]], what=f"a chunk from token {split}, a block's edge")


def _confirm_pieces(subject: KitSubject, pieces: list[list[int]], *, what: str) -> None:
    sequence = subject.open()
    subject.reference.foresee([token for piece in pieces for token in piece])
    for piece in pieces:
        subject.confirm(KitPart(sequence, piece), what=what, sentence=contract.KV_LEN)
    subject.close(sequence)


def check_decode(bench: KitBench) -> None:
    subject = bench.subject()
    _confirm_pieces(subject, [[token] for token in random_tokens(26, seed=43)], what="decoding from the first token")
    edge = subject.plan.block_tokens if subject.is_paged else subject.context - 4
    tokens = random_tokens(edge + 4, seed=44)
    steps = [[token] for token in tokens[edge - 3 :]]
    _confirm_pieces(subject, [tokens[: edge - 3], *steps], what="decoding over the edge of a block")


def check_no_rows(bench: KitBench) -> None:
    subject = bench.subject()
    sequence = subject.open()
    logits = subject.run(KitPart(sequence, _CHUNKED, rows=0))
    expect(not len(logits), expected="no rows", found=logits.shape, contract=contract.EMPTY)
    subject.confirm(KitPart(sequence, [50]), what="a decode step after a prefill without rows")


CHECKS = (
    Check(name="prefill", claim="Logits of prompts of many lengths equal the oracle's.", run=check_prefill),
    Check(name="chunks", claim="A prompt may be cut into chunks anywhere.", run=check_chunks),
    Check(name="decode", claim="Token by token gives what a prefill gives.", run=check_decode),
    Check(
        name="no_rows",
        claim="A step that asks for no logits returns [0, vocab] and still writes its KV.",
        run=check_no_rows,
    ),
)
