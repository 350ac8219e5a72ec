"""One model, two file formats, three runners: the same greedy ids."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.api import KVLimit
from backends.loading import open_model
from backends.registry import create_runner, missing_packages
from backends.testing.greedy import continue_greedily
from backends.testing.models import FAMILY_NAMES, FamilyName, ModelSizes, make_random_model, write_gguf_of

RUNNERS = ("onnx", "torch", "mlx")
TIED = ("qwen2",)
NUM_PROMPTS, NUM_TOKENS = 16, 64
SIZES = ModelSizes(
    num_layers=4, hidden_size=64, ffn_size=96, num_heads=4, num_kv_heads=2, vocab_size=384, max_context=256, window=24
)


def prompts() -> list[list[int]]:
    """Prompts of 1 to 46 tokens, so that some exceed the window and some never do in their prompt."""
    rng = np.random.default_rng(7)
    return [rng.integers(0, SIZES.vocab_size, size=1 + 3 * index).tolist() for index in range(NUM_PROMPTS)]


def greedy_ids(runner_name: str, path: Path) -> list[list[int]]:
    runner = create_runner(runner_name, threads=1)
    try:
        runner.load(open_model(path), lambda fraction: None)
        runner.plan_memory(KVLimit(max_bytes=1 << 30, max_sequences=NUM_PROMPTS, max_context=SIZES.max_context))
        return continue_greedily(runner, prompts(), NUM_TOKENS)
    finally:
        runner.close()


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_every_runner_says_the_same(tmp_path: Path, family: FamilyName) -> None:
    """16 prompts, 64 tokens each, from safetensors and from GGUF, float32."""
    sizes = msgspec.structs.replace(SIZES, tied_head=family in TIED)
    folder = make_random_model(tmp_path / family, sizes=sizes, family=family)
    gguf = write_gguf_of(folder, tmp_path / "model.gguf", "F32")
    present = [name for name in RUNNERS if not missing_packages(name)[0]]
    assert len(present) > 1, "nothing to compare: install the extras onnx, torch and mlx"

    said = {(name, path.name): greedy_ids(name, path) for name in present for path in (folder, gguf)}

    expected = said[present[0], folder.name]
    assert [key for key, ids in said.items() if ids != expected] == []
    assert len({tuple(ids) for ids in expected}) == NUM_PROMPTS
