"""Trains the bundled demo model and its draft model from scratch on a CPU."""

import argparse

import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from gateway.demo.corpus import Corpus
from gateway.demo.facts import load_facts
from gateway.demo.network import Llama, initialize
from gateway.demo.packing import IGNORED, batches
from gateway.demo.shape import DRAFT, MODEL, Shape
from gateway.demo.tokenizer import train_tokenizer

TOKENIZER_CONVERSATIONS = 30_000


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How one model is trained; everything that decides the weights, apart from the machine, is in here."""

    shape: Shape
    steps: int
    learning_rate: float
    rows: int = 32
    warm_up: int = 100
    weight_decay: float = 0.1
    last_rate: float = 0.02
    seed: int = 1


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `last_rate` of the peak."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * (recipe.last_rate + (1 - recipe.last_rate) * cosine)


def answer_loss(network: Llama, ids: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the answer tokens; the head runs only on the rows that have one."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(ids)
        wanted = targets != IGNORED
        logits = network.logits(hidden[wanted])
    return functional.cross_entropy(logits.float(), targets[wanted])


def train(recipe: Recipe, tokenizer: Tokenizer, corpus: Corpus, report: Callable[[str], None] = print) -> Llama:
    """A network trained by the recipe; ends with the weights of the last step."""
    network = Llama(recipe.shape)
    initialize(network, recipe.seed)
    fit(network, recipe, tokenizer, corpus, report)
    return network


def fit(
    network: Llama, recipe: Recipe, tokenizer: Tokenizer, corpus: Corpus, report: Callable[[str], None] = print
) -> None:
    """Run all steps of the recipe on a network, in place."""
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
    stream = batches(
        tokenizer, corpus.conversations(), rows=recipe.rows, context=recipe.shape.context, seed=recipe.seed
    )
    start = time.monotonic()
    for step, (ids, targets) in enumerate(islice(stream, recipe.steps)):
        loss = _step(network, optimizer, learning_rate(recipe, step), ids, targets)
        if step % 50 == 49 or step == recipe.steps - 1:
            report(f"step {step + 1}/{recipe.steps} loss {loss:.4f} {time.monotonic() - start:.0f} s")


def _step(network: Llama, optimizer: torch.optim.Optimizer, rate: float, ids: Tensor, targets: Tensor) -> float:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = answer_loss(network, ids, targets)
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward unannotated
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _groups(network: Llama, recipe: Recipe) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    vectors = [weight for weight in network.parameters() if weight.dim() == 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
