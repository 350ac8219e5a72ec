"""The adapter that the peft package trains and saves is the adapter that is read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.peft import read_peft
from backends.loading import open_model
from backends.models.shapes import lora_shapes
from backends.testing.models import FamilyName, ModelSizes, make_random_model, write_gguf_of
from backends.testing.oracle import F32, Oracle

peft = pytest.importorskip("peft", reason="the dev extra is not installed")
torch: Any = pytest.importorskip("torch", reason="the dev extra is not installed")
transformers: Any = pytest.importorskip("transformers", reason="the dev extra is not installed")

SIZES = ModelSizes(
    num_layers=2, hidden_size=32, ffn_size=48, num_heads=4, num_kv_heads=2, vocab_size=300, max_context=64
)
PLAIN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
PROMPT = [7, 60, 130, 299, 4, 90, 21]


def adapted(base: Path, folder: Path, **settings: Any) -> F32:
    """Save an adapter with random matrices, and return the logits of `PROMPT` with it, by peft."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        model = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").float()
        adapter = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings))
        for name, parameter in adapter.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
        adapter.save_pretrained(folder)
        with torch.no_grad():
            logits: F32 = adapter.eval()(torch.tensor([PROMPT])).logits[0].float().numpy()
    return logits


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}),
        ("llama", {"r": 8, "lora_alpha": 20, "target_modules": list(PLAIN)}),
        ("qwen3", {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "use_rslora": True}),
        ("phi3", {"r": 4, "lora_alpha": 6, "target_modules": list(FUSED)}),
    ],
)
def test_logits_of_the_merged_weights(tmp_path: Path, family: FamilyName, settings: dict[str, Any]) -> None:
    """W + scale B A gives what peft computes; also where q and k come from a GGUF file in another order."""
    base = make_random_model(tmp_path / "base", family=family, sizes=SIZES)
    expected = adapted(base, tmp_path / "adapter", **settings)

    for path in (base, write_gguf_of(base, tmp_path / "base.gguf", "F32")):
        model = open_model(path)
        adapter = read_peft(tmp_path / "adapter", shapes=lora_shapes(model.spec, TARGETS), max_rank=64)
        merged = Oracle(model, adapter.weights).logits(PROMPT)

        assert np.abs(merged - expected).max() < 1e-4 * np.abs(expected).max()
        assert np.abs(Oracle(model).logits(PROMPT) - expected).max() > 0.01 * np.abs(expected).max()
