"""Weights as stored: every declared format computes what its blocks stand for; others are refused."""

from __future__ import annotations

from collections.abc import Callable

from backends.api import LoadableModel
from backends.errors import Fatal, UnsupportedModel
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench
from backends.testing.kit.check import Check
from backends.testing.kit.expect import CheckSkipped, expect_error
from backends.testing.kit.samples import in_format, random_tokens
from backends.testing.kit.subject import KitPart, KitSubject
from backends.weights.formats import FORMATS
from backends.weights.tensor import StoredTensor

_FLOATS = ("F32", "F16", "BF16")
_UNKNOWN = "X9_K"
"""A format that does not exist."""


def check_format(form: str) -> Callable[[KitBench], None]:
    """The check of one format, with and without exact arithmetic."""

    def check(bench: KitBench) -> None:
        if form not in bench.capabilities.formats:
            raise CheckSkipped(f"the runner does not declare {form}")
        reference = bench.samples.stored_as(form)
        for exact in (False, True):
            subject = bench.subject(reference, exact=exact, tolerance=_tolerance(bench, form, exact=exact))
            _confirm_steps(subject, what=f"{form} weights{', computed exactly' if exact else ''}")

    return check


def _tolerance(bench: KitBench, form: str, *, exact: bool) -> float:
    if form in _FLOATS:
        return bench.tolerances.logits
    return bench.tolerances.exact if exact else bench.tolerances.quantized


def _confirm_steps(subject: KitSubject, *, what: str) -> None:
    """Products of one row, a few, and many take different paths through most libraries."""
    sequences = [subject.open() for _ in range(4)]
    for length, sequence in zip((1, 5, 17, 40), sequences, strict=True):
        part = KitPart(sequence, random_tokens(length, seed=270 + length))
        subject.confirm(part, what=f"{what}, a prefill of {length}", sentence=contract.AS_STORED)
    parts = [KitPart(sequence, [31 + index]) for index, sequence in enumerate(sequences)]
    subject.confirm(*parts, what=f"{what}, a batch of 4", sentence=contract.AS_STORED)


def check_format_refused(bench: KitBench) -> None:
    declared = bench.capabilities.formats
    model = bench.samples.stored_as("F32").model
    for form in (form for form in FORMATS if form not in declared):
        _refused(bench, in_format(model, form), form)
    _refused(bench, _unknown(model), _UNKNOWN)


def _refused(bench: KitBench, model: LoadableModel, form: str) -> None:
    runner = bench.runner()
    expect_error(
        UnsupportedModel,
        lambda: runner.load(model, lambda _: None),
        when=f"weights of format {form}, which is not declared",
        contract=contract.NEVER_WIDENED,
    )
    expect_error(
        Fatal,
        lambda: runner.plan_memory(bench.limit()),
        when="plan_memory after a load that was refused",
        contract=contract.NOTHING_LOADED,
    )


def _unknown(model: LoadableModel) -> LoadableModel:
    """Model with one matrix in a format that does not exist."""
    name = "layers.0.q"
    odd = StoredTensor(name, _UNKNOWN, model.tensors[name].shape, model.tensors[name].data)
    return LoadableModel(spec=model.spec, tensors={**model.tensors, name: odd})


CHECKS = (
    *(
        Check(
            name=f"format_{form}",
            claim=f"{form} weights compute what they stand for.",
            run=check_format(form),
            layouts=(),
        )
        for form in FORMATS
    ),
    Check(
        name="format_refused",
        claim="A format that is not declared is refused at load, and nothing is loaded then.",
        run=check_format_refused,
        layouts=(),
    ),
)
