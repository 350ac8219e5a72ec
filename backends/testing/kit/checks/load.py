"""Checks of capabilities and load: progress, sizes, files, a second model."""

from __future__ import annotations

import shutil
from typing import get_args

from backends.api import RunnerCapabilities
from backends.errors import Fatal
from backends.loading import open_model
from backends.models.shapes import expected_shapes
from backends.testing.kit import contract
from backends.testing.kit.bench import KitBench, KitLayout
from backends.testing.kit.check import Check
from backends.testing.kit.expect import expect, expect_error
from backends.testing.kit.samples import random_tokens
from backends.testing.kit.subject import KitPart, KitSubject
from backends.weights.formats import FORMATS

_LINEARS = ("q", "k", "v", "o", "gate", "up", "down")


def check_capabilities(bench: KitBench) -> None:
    runner = bench.runner()
    before = runner.capabilities()
    _well_formed(before)
    runner.load(bench.samples.base.model, lambda _: None)
    runner.plan_memory(bench.limit())
    after = runner.capabilities()
    expect(before == after, expected="the same capabilities after load", found=after, contract=contract.CONSTANT)


def _well_formed(capabilities: RunnerCapabilities) -> None:
    layouts = capabilities.kv_layouts
    expect(
        bool(layouts) and set(layouts) <= set(get_args(KitLayout)) and len(set(layouts)) == len(layouts),
        expected="KV layouts out of slot and paged, at least one",
        found=layouts,
        contract=contract.UNDECLARED,
    )
    expect(
        bool(capabilities.formats) and set(capabilities.formats) <= set(FORMATS),
        expected=f"formats out of {', '.join(FORMATS)}",
        found=capabilities.formats,
        contract=contract.FORMATS,
    )
    expect(
        capabilities.max_verify_rows >= 1,
        expected="max_verify_rows of at least 1",
        found=capabilities.max_verify_rows,
        contract=contract.VERIFY_ROWS,
    )
    expect(
        capabilities.async_depth >= 1,
        expected="async_depth of at least 1",
        found=capabilities.async_depth,
        contract=contract.ASYNC_DEPTH,
    )
    _well_formed_lora(capabilities)


def _well_formed_lora(capabilities: RunnerCapabilities) -> None:
    has_lora = capabilities.lora_slots > 0
    details = (capabilities.lora_max_rank > 0, bool(capabilities.lora_targets), bool(capabilities.lora_formats))
    expect(
        details == (has_lora,) * 3,
        expected="rank, targets and formats of LoRA where there are slots, and only there",
        found=capabilities,
        contract=contract.UNDECLARED,
    )
    expect(
        set(capabilities.lora_targets) <= set(_LINEARS),
        expected=f"LoRA targets out of {', '.join(_LINEARS)}",
        found=capabilities.lora_targets,
        contract=contract.LORA_TARGETS,
    )
    expect(
        set(capabilities.lora_formats) <= set(capabilities.formats),
        expected="LoRA formats among the declared ones",
        found=capabilities.lora_formats,
        contract=contract.LORA_FORMATS,
    )


def check_load(bench: KitBench) -> None:
    seen: list[float] = []
    runner = bench.runner()
    model = bench.samples.base.model
    info = runner.load(model, seen.append)
    expect(
        bool(seen) and seen == sorted(seen) and seen[0] >= 0 and seen[-1] <= 1,
        expected="at least one call of progress, rising from 0 to 1",
        found=seen[:20],
        contract=contract.PROGRESS,
    )
    sizes = (model.spec.vocab_size, model.spec.max_context, model.spec.num_layers)
    expect(
        (info.vocab_size, info.max_context, info.num_layers) == sizes and info.weight_bytes > 0,
        expected=f"{sizes} as vocabulary, context and layers, and the size of the weights",
        found=info,
        contract=contract.INFO,
    )
    for sentences in (info.notes, info.fallbacks):
        expect(
            isinstance(sentences, tuple) and all(isinstance(sentence, str) for sentence in sentences),
            expected="notes and fallbacks that are tuples of str",
            found=sentences,
            contract=contract.INFO,
        )
    _check_lora_shapes(info.lora_shapes, bench)


def _check_lora_shapes(found: dict[str, tuple[int, int]], bench: KitBench) -> None:
    targets = bench.capabilities.lora_targets
    shapes = expected_shapes(bench.samples.base.model.spec)
    linears = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    expected = {name: shape for name, shape in linears.items() if name.rpartition(".")[2] in targets}
    expect(
        {name: tuple(shape) for name, shape in found.items()} == expected,
        expected=f"lora_shapes {expected}",
        found=found,
        contract=contract.LORA_SHAPES,
    )


def check_stats(bench: KitBench) -> None:
    subject = bench.subject()
    for _ in range(2):
        stats = subject.runner.stats()
        expect(
            all(isinstance(name, str) and isinstance(value, float) for name, value in stats.items()),
            expected="stats of float by str",
            found=stats,
            contract=contract.STATS,
        )
        subject.confirm(KitPart(subject.open(), random_tokens(5, seed=1)), what="a prefill after stats")


def check_files_gone(bench: KitBench) -> None:
    """Checks only on systems that let a mapped file be deleted; elsewhere the deletion itself fails."""
    folder = bench.samples.copy_of_base("to be deleted")
    runner = bench.runner()
    info = runner.load(open_model(folder), lambda _: None)
    try:
        shutil.rmtree(folder)
    except PermissionError as error:
        expect(False, expected="files that may be deleted", found=error, contract=contract.FILES)
    subject = KitSubject(runner, bench.samples.base, info, tolerance=bench.tolerances.logits)
    bench.plan(subject)
    subject.confirm(KitPart(subject.open(), random_tokens(9, seed=2)), what="a prefill", sentence=contract.FILES)


def check_load_again(bench: KitBench) -> None:
    subject = bench.subject(bench.samples.other)
    step = subject.step(KitPart(subject.open(), [11, 12, 13]))
    subject.runner.collect(subject.runner.submit(step))
    info = subject.runner.load(bench.samples.base.model, lambda _: None)
    expect_error(
        Fatal,
        lambda: subject.runner.submit(step),
        when="submit after another load, before plan_memory",
        contract=contract.REPLACES,
    )
    again = KitSubject(subject.runner, bench.samples.base, info, tolerance=bench.tolerances.logits)
    bench.plan(again)
    again.confirm(
        KitPart(again.open(), random_tokens(17, seed=5)),
        what="a prefill of the second model",
        sentence=contract.REPLACES,
    )


CHECKS = (
    Check(
        name="capabilities",
        claim="Capabilities are well formed, known before load and constant.",
        run=check_capabilities,
        layouts=(),
    ),
    Check(
        name="load",
        claim="Progress rises within 0 to 1; the model's sizes, notes and LoRA shapes are told.",
        run=check_load,
        layouts=(),
    ),
    Check(name="files_gone", claim="After load, the files are not needed.", run=check_files_gone, layouts=()),
    Check(name="load_again", claim="A second load replaces model and KV.", run=check_load_again, layouts=()),
    Check(name="stats", claim="Stats are floats by name, at any time.", run=check_stats, layouts=()),
)
