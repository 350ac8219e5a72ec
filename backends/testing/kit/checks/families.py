"""Other families than the base: windows, biases, norms, caps, experts, scaled rotary embeddings."""

from __future__ import annotations

from collections.abc import Callable

from backends.errors import UnsupportedModel
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import CheckSkipped
from backends.testing.kit.reference import Reference
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject
from backends.testing.models import FAMILY_NAMES, FamilyName

_BASE = "llama"


def check_family(family: FamilyName) -> Callable[[KitBench], None]:
    """The check of one family; its windows are shorter than the sequences."""
    return lambda bench: _check(bench, bench.samples.family(family), name=family)


def check_scaled(bench: KitBench) -> None:
    _check(bench, bench.samples.scaled, name="the rotary scaling of Llama 3")


def _check(bench: KitBench, reference: Reference, *, name: str) -> None:
    try:
        subject = bench.subject(reference)
    except UnsupportedModel as error:
        raise CheckSkipped(f"the runner refuses {name}: {error}") from error
    _confirm_steps(subject, what=name)


def _confirm_steps(subject: KitSubject, *, what: str) -> None:
    """A prefill beyond the window, a chunk, decode steps, and two sequences in a batch."""
    long, short = subject.open(), subject.open()
    tokens, others = random_tokens(32, seed=280), random_tokens(6, seed=281)
    for known in (tokens, others):
        subject.reference.foresee(known)
    for piece in (tokens[:21], tokens[21:27], tokens[27:28], tokens[28:29]):
        subject.confirm(KitPart(long, piece), what=what)
    subject.confirm(KitPart(short, others[:3]), what=what)
    for token, other in zip(tokens[29:], others[3:], strict=True):
        subject.confirm(KitPart(long, [token]), KitPart(short, [other]), what=f"{what}, in a batch")


CHECKS = (
    *(
        Check(name=f"family_{family}", claim=f"A model of the family {family}, or a refusal at load.", run=run)
        for family, run in ((family, check_family(family)) for family in FAMILY_NAMES if family != _BASE)
    ),
    Check(name="rope_scaling", claim="Scaled rotary embeddings, or a refusal at load.", run=check_scaled),
)
