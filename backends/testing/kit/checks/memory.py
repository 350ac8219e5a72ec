"""KV that is shared, copied, used again, cut back, or full of NaN."""

from __future__ import annotations

from functools import partial

from backends.errors import Fatal
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect_error
from backends.testing.kit.samples import POISON, random_tokens
from backends.testing.kit.subject import KitPart, KitSequence, KitSubject

_ROUNDS = 8


def check_reuse(bench: KitBench) -> None:
    subject = bench.subject(num_sequences=2)
    for index in range(_ROUNDS):
        long, short = (subject.open() for _ in range(2))
        subject.run(KitPart(long, random_tokens(60, seed=110 + index)))
        subject.close(long)
        sentence = contract.KV_LEN
        subject.confirm(
            KitPart(short, random_tokens(1 + index, seed=120 + index)),
            what="a prefill beside used KV",
            sentence=sentence,
        )
        again = subject.open()
        subject.confirm(
            KitPart(again, random_tokens(1 + 2 * index, seed=130 + index)),
            what="a prefill where another was",
            sentence=sentence,
        )
        subject.confirm(KitPart(again, [60]), what="a decode step where another sequence was", sentence=sentence)
        for sequence in (short, again):
            subject.close(sequence)


def check_neighbours(bench: KitBench) -> None:
    subject = bench.subject(num_sequences=3)
    left, middle, right = (subject.open() for _ in range(3))
    for index, sequence in enumerate((left, middle, right)):
        subject.run(KitPart(sequence, random_tokens(20, seed=140 + index)))
    for token in random_tokens(min(subject.context - 20, 70), seed=143):
        subject.run(KitPart(middle, [token]))
    for sequence in (left, right):
        subject.confirm(
            KitPart(sequence, [61]), what="a neighbour of a growing sequence", sentence=contract.NOWHERE_ELSE
        )


def check_shared_blocks(bench: KitBench) -> None:
    subject = bench.subject()
    owner = subject.open()
    prefix = random_tokens(subject.plan.block_tokens + 3, seed=150)
    subject.run(KitPart(owner, prefix))
    sharers = [subject.share(owner, 1) for _ in range(2)]
    parts = [KitPart(sharer, random_tokens(4 + index, seed=151 + index)) for index, sharer in enumerate(sharers)]
    for part in parts:
        subject.confirm(part, what="a sequence on the first block of another", sentence=contract.BLOCKS)
    decodes = [KitPart(sequence, [70 + index]) for index, sequence in enumerate((owner, *sharers))]
    subject.confirm(*decodes, what="sequences of one step that share a block", sentence=contract.BLOCKS)


def check_copies(bench: KitBench) -> None:
    subject = bench.subject()
    source = subject.open()
    subject.run(KitPart(source, random_tokens(19, seed=160)))
    subject.runner.copy_blocks([])
    copy = subject.fork(source)
    for token, sequence in ((71, copy), (72, source), (73, copy)):
        what = "a copy" if sequence is copy else "what was copied"
        subject.confirm(KitPart(sequence, [token]), what=f"{what}, continued", sentence=contract.COPY)
    _confirm_chain(subject)
    _confirm_part(subject, source)
    _refuse_copies(subject, source)


def _confirm_chain(subject: KitSubject) -> None:
    """a → b, then b → c: c is a."""
    first, second, third = (subject.open() for _ in range(3))
    tokens = random_tokens(min(14, subject.plan.block_tokens), seed=161)
    subject.run(KitPart(first, tokens))
    subject.run(KitPart(second, random_tokens(5, seed=162)))
    subject.runner.copy_blocks([(first.blocks[0], second.blocks[0]), (second.blocks[0], third.blocks[0])])
    third.tokens = list(tokens[:-1])
    subject.confirm(KitPart(third, tokens[-1:]), what="a copy of a copy, made by one call", sentence=contract.COPY)


def _confirm_part(subject: KitSubject, source: KitSequence) -> None:
    """Copy no more than the first tokens of a slot, and confirm them."""
    if subject.is_paged:
        return
    part = subject.fork(source, num_tokens=9)
    subject.confirm(KitPart(part, [75]), what="a copy of the first tokens", sentence=contract.COPY)


def _refuse_copies(subject: KitSubject, source: KitSequence) -> None:
    beyond = subject.plan.num_blocks
    for pair in ((source.blocks[0], beyond), (beyond, source.blocks[0]), (-1, source.blocks[0])):
        expect_error(
            Fatal,
            partial(subject.runner.copy_blocks, [pair]),
            when=f"copy_blocks([{pair}]) of {beyond} blocks",
            contract=contract.COPY_RANGE,
        )
    subject.confirm(KitPart(source, [74]), what="a sequence after refused copies", sentence=contract.COPY_RANGE)


def check_poison(bench: KitBench) -> None:
    subject = bench.subject(model=bench.samples.poisoned, num_sequences=3)
    _poison_everything(subject)
    clean = subject.open()
    for piece in (random_tokens(5, seed=170), [75], [76], random_tokens(14, seed=171)):
        subject.confirm(KitPart(clean, piece), what="a sequence where others had left NaN", sentence=contract.KV_LEN)


def check_poison_company(bench: KitBench) -> None:
    subject = bench.subject(model=bench.samples.poisoned, num_sequences=3)
    clean, ill = subject.open(), subject.open()
    steps = ((random_tokens(6, seed=172), [POISON] * 20), ([77], [POISON]), ([78], [79]))
    for piece, infected in steps:
        logits = subject.run(KitPart(ill, infected), KitPart(clean, piece))
        subject.compare(
            logits[1:], KitPart(clean, piece), what="a sequence beside one of NaN", sentence=contract.RAGGED_BATCH
        )


def _poison_everything(subject: KitSubject) -> None:
    """NaN keys and values in all the memory there is."""
    sequences = [subject.open() for _ in range(3)]
    for sequence in sequences:
        subject.run(KitPart(sequence, [POISON] * subject.context, rows=0))
    for sequence in sequences:
        subject.close(sequence)


def check_rollback(bench: KitBench) -> None:
    subject = bench.subject()
    sequence = subject.open()
    subject.run(KitPart(sequence, random_tokens(12, seed=180)))
    for index in range(_ROUNDS):
        length = len(sequence)
        subject.run(KitPart(sequence, random_tokens(4, seed=181 + index)))
        subject.rewind(sequence, length + index % 3)
        subject.confirm(
            KitPart(sequence, random_tokens(1 + index % 2, seed=190 + index)),
            what="a sequence whose last tokens were taken back",
            sentence=contract.TRUNCATE,
        )


CHECKS = (
    Check(name="reuse", claim="Slots and blocks serve the next sequence as if they were new.", run=check_reuse),
    Check(name="neighbours", claim="A sequence that grows leaves the KV of others alone.", run=check_neighbours),
    Check(
        name="shared_blocks",
        claim="Sequences may share the blocks of a common prefix.",
        run=check_shared_blocks,
        layouts=("paged",),
    ),
    Check(name="copies", claim="copy_blocks copies in order, and refuses what is out of range.", run=check_copies),
    Check(name="poison", claim="NaN that an earlier sequence left behind is never read.", run=check_poison),
    Check(
        name="poison_company",
        claim="A sequence of NaN does not reach another one in the same step.",
        run=check_poison_company,
        needs="ragged_steps",
    ),
    Check(name="rollback", claim="Tokens that were taken back leave no trace.", run=check_rollback),
)
