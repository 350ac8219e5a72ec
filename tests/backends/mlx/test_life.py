"""The life of an MLX runner beyond what the conformance kit asks of every runner."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.api import KVLimit
from backends.errors import BackendError, CapacityExceeded, Fatal
from backends.loading import open_model
from backends.mlx import create_runner
from backends.testing.greedy import step_of
from backends.testing.models import ModelSizes, make_random_model
from backends.testing.oracle import Oracle

SIZES = ModelSizes(num_layers=2, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, max_context=128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_model(tmp_path_factory.mktemp("mlx") / "llama", sizes=SIZES)


def test_importing_the_package_imports_no_mlx() -> None:
    """Listing runners stays light."""
    code = "import sys, backends.mlx; print('mlx.core' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("device", "words"), [("cuda", "it has auto, cpu, metal"), ("metal", "has no Metal")])
def test_a_device_that_is_not_there_is_refused(device: str, words: str) -> None:
    """The message says which there are."""
    with pytest.raises(BackendError, match=words):
        create_runner(device=device)


def test_memory_is_planned_within_the_limit(folder: Path) -> None:
    """The plan has as many slots as fit; where none fits, the refusal states the sizes."""
    runner = create_runner()
    with pytest.raises(Fatal, match="no model is loaded"):
        runner.plan_memory(KVLimit(max_bytes=1 << 20, max_sequences=4, max_context=64))
    model = open_model(folder)
    runner.load(model, lambda fraction: None)
    one = 64 * model.spec.kv_bytes_per_token

    plan = runner.plan_memory(KVLimit(max_bytes=3 * one + 1, max_sequences=9, max_context=64))

    assert (plan.num_blocks, plan.block_tokens, plan.bytes_per_block) == (3, 64, one)
    with pytest.raises(CapacityExceeded, match=r"one sequence of 64 tokens needs .* raise kv_cache_mb"):
        runner.plan_memory(KVLimit(max_bytes=one - 1, max_sequences=1, max_context=64))
    with pytest.raises(Fatal, match="declares slot"):
        runner.plan_memory(KVLimit(max_bytes=1 << 30, max_sequences=1, max_context=64, layout="paged"))


def test_a_step_is_in_flight_while_its_arrays_change(folder: Path) -> None:
    """The step was copied at submit, and its logits are those of the oracle."""
    model = open_model(folder)
    runner = create_runner()
    runner.load(model, lambda fraction: None)
    runner.plan_memory(KVLimit(max_bytes=1 << 24, max_sequences=2, max_context=64))
    runner.warmup()
    tokens = [5, 200, 17, 93, 4]
    step = step_of([tokens], [len(tokens)])

    ticket = runner.submit(step)
    step.token_ids[:] = 0
    step.logit_rows[:] = 0
    logits = runner.collect(ticket).logits

    np.testing.assert_allclose(logits[0], Oracle(model).logits(tokens)[-1], atol=1e-4)
    assert runner.stats()["steps"] == 3


def test_exact_decodes_at_load_and_says_so(folder: Path, tmp_path: Path) -> None:
    """A note, and four bytes a weight."""
    from backends.testing.models import write_gguf_of

    model = open_model(write_gguf_of(folder, tmp_path / "q.gguf", "Q8_0"))

    stored = create_runner().load(model, lambda fraction: None)
    exact = create_runner(exact=True).load(model, lambda fraction: None)

    assert "decoded to float32 at load" in exact.notes[0]
    assert exact.weight_bytes > 3 * stored.weight_bytes
