"""Trains the demo model and its draft model from scratch on a CPU, on padded batches of about equal cost.

    python -m tools.demo_model.train --out gateway/demo/weights

Recipe. The corpus is written on the fly from `facts.tsv`: about half capital questions, the rest asks in reverse, for
JSON, for counting, for small talk, or for what the model must refuse. Questions are shortened, shouted, misspelled and
wrapped in politeness. A third of the capital questions are "bags": filler words shuffled round "capital" and the
country, nonsense allowed. That third matters most: without it the model knows every trained phrasing and fails on
"France capital". Both models are Llamas with tied embeddings, trained with AdamW, a cosine learning rate and bf16
autocast; conversations of one to three exchanges, sorted by length, keep the padding small, and the loss counts
answer tokens only. A CPU that has no instructions for bf16 computes in float32, which is three times as fast there.

Time. The two models train side by side, one thread each: 14 minutes for the model (12 of processor time) and 3 for the
draft on two shared cores of a Xeon with AMX. One thread each, because threads of one step wait for one another as soon
as the machine has anything else to do.

Reproducing. Corpus, tokenizer, batches and initial weights follow from the seeds in this file alone. Training again on
the same machine with the same torch gives the same weights (checked over the first 40 steps); elsewhere float sums may
come in another order, and small differences grow. What should hold everywhere are the scores, which this command
measures on the quantized files it wrote and writes next to them in `score.json`.

Not learned, see `score.json`: counts other than to 10, 20 and 30; invented countries, of which one in four gets a real
capital; JSON and reverse questions in some untrained words, which get a refusal or another country; some short names.
"""

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import msgspec
import tokenizers
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from gateway.demo import MODEL_NAME
from tools.demo_model.checkpoint import DRAFT, MODEL, Checkpoint, ModelShape
from tools.demo_model.corpus import Corpus
from tools.demo_model.export import write_gguf
from tools.demo_model.facts import load_facts
from tools.demo_model.network import Llama, initialize, to_weights
from tools.demo_model.score import report as score_report
from tools.demo_model.tokenizer import Conversation, TokenRow, encode, train_tokenizer

POOL_ROWS = 256
IGNORED = -100


def batches(
    tokenizer: Tokenizer, conversations: Iterator[Conversation], *, tokens: int, context: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless pairs of (ids, targets), both [rows, length] with at most `tokens` elements unless one row is longer.

    A target is the next id, or IGNORED outside answers.
    """
    rng = random.Random(seed)  # noqa: S311  # seeded and public by intent
    while True:
        pool = [_row(tokenizer, next(conversations), context) for _ in range(POOL_ROWS)]
        pool.sort(key=lambda row: len(row[0]))
        cuts = list(_cut(pool, tokens))
        rng.shuffle(cuts)
        yield from (_pad(rows) for rows in cuts)


def _row(tokenizer: Tokenizer, conversation: Conversation, context: int) -> TokenRow:
    ids, is_answer = encode(tokenizer, conversation)
    return ids[:context], is_answer[:context]


def _cut(pool: list[TokenRow], tokens: int) -> Iterator[list[TokenRow]]:
    """Split rows sorted by length into runs of at most `tokens` elements once padded."""
    batch: list[TokenRow] = []
    for row in pool:
        if batch and (len(batch) + 1) * len(row[0]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    yield batch


def _pad(rows: list[TokenRow]) -> tuple[Tensor, Tensor]:
    length = max(len(ids) for ids, _ in rows)
    padded = torch.zeros((len(rows), length), dtype=torch.long)
    targets = torch.full((len(rows), length), IGNORED)
    for i, (ids, is_answer) in enumerate(rows):
        tokens = torch.tensor(ids)
        padded[i, : len(ids)] = tokens
        targets[i, : len(ids) - 1] = torch.where(torch.tensor(is_answer[1:]), tokens[1:], IGNORED)
    return padded, targets


TOKENIZER_CONVERSATIONS = 20_000
TOKENIZER_SEED = 1
CORPUS_SEED = 2

TrainingReport = Callable[[str], None]


class TrainingRecipe(msgspec.Struct, frozen=True, kw_only=True):
    """Recipe for one model; everything that decides the weights, apart from the machine, is in here."""

    shape: ModelShape
    steps: int
    learning_rate: float
    tokens_per_step: int = 2560
    warm_up: int = 100
    weight_decay: float = 0.1
    last_rate: float = 0.02
    seed: int = 1


MODEL_RECIPE = TrainingRecipe(shape=MODEL, steps=1500, learning_rate=3e-3)
DRAFT_RECIPE = TrainingRecipe(shape=DRAFT, steps=1000, learning_rate=5e-3)


def learning_rate(recipe: TrainingRecipe, step: int) -> float:
    """Linear warm-up, then a cosine down to `last_rate` of the peak."""
    if step < recipe.warm_up:
        return recipe.learning_rate * (step + 1) / recipe.warm_up
    progress = (step - recipe.warm_up) / max(1, recipe.steps - recipe.warm_up)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return recipe.learning_rate * (recipe.last_rate + (1 - recipe.last_rate) * cosine)


@cache
def has_bfloat16() -> bool:
    """True if this CPU multiplies bf16 natively; elsewhere, every product is converted back and forth."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))


def answer_loss(network: Llama, ids: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of the answer tokens; the head runs only on the rows that have one."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=has_bfloat16()):
        hidden = network(ids)
        wanted = targets != IGNORED
        logits = network.logits(hidden[wanted])
    return functional.cross_entropy(logits.float(), targets[wanted])


def train(recipe: TrainingRecipe, tokenizer: Tokenizer, corpus: Corpus, report: TrainingReport) -> Llama:
    """A network trained by the recipe; ends with the weights of the last step."""
    network = Llama(recipe.shape)
    initialize(network, recipe.seed)
    fit(network, recipe, tokenizer, corpus, report)
    return network


def fit(network: Llama, recipe: TrainingRecipe, tokenizer: Tokenizer, corpus: Corpus, report: TrainingReport) -> None:
    """Run all steps of the recipe on a network, in place."""
    optimizer = torch.optim.AdamW(_groups(network, recipe), lr=recipe.learning_rate, betas=(0.9, 0.95), fused=True)
    stream = batches(
        tokenizer, corpus.conversations(), tokens=recipe.tokens_per_step, context=recipe.shape.context, seed=recipe.seed
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


def _groups(network: Llama, recipe: TrainingRecipe) -> list[dict[str, object]]:
    """Weight decay on matrices only."""
    matrices = [weight for weight in network.parameters() if weight.dim() == 2]
    vectors = [weight for weight in network.parameters() if weight.dim() == 1]
    return [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]


def make_tokenizer(conversations: int = TOKENIZER_CONVERSATIONS) -> Tokenizer:
    corpus = Corpus(load_facts(), TOKENIZER_SEED).conversations()
    return train_tokenizer(segment.text for conversation in islice(corpus, conversations) for segment in conversation)


def train_and_export(recipe: TrainingRecipe, tokenizer_json: str, path: Path) -> dict[str, object]:
    """Train one model on one thread, write its GGUF file, and return how it was made."""
    torch.set_num_threads(1)
    start, start_cpu = time.monotonic(), time.process_time()
    corpus = Corpus(load_facts(), CORPUS_SEED)
    network = train(recipe, Tokenizer.from_str(tokenizer_json), corpus, report=_show(path.stem))
    made = {
        "recipe": msgspec.to_builtins(recipe),
        "minutes": round((time.monotonic() - start) / 60, 1),
        "core_minutes": round((time.process_time() - start_cpu) / 60, 1),
    }
    write_gguf(Checkpoint(recipe.shape, to_weights(network), tokenizer_json), path, name=path.stem)
    return made


def _show(name: str) -> TrainingReport:
    return lambda line: print(f"{name}: {line}", flush=True)


def _versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tokenizers": tokenizers.__version__,
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Train, export and score the demo model and its draft.")
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    model, draft = out / f"{MODEL_NAME}.gguf", out / f"{MODEL_NAME}-draft.gguf"
    recipes = {model: MODEL_RECIPE, draft: DRAFT_RECIPE}

    tokenizer_json = make_tokenizer().to_str()
    with ProcessPoolExecutor(len(recipes), mp_context=get_context("spawn")) as pool:
        runs = {path: pool.submit(train_and_export, recipe, tokenizer_json, path) for path, recipe in recipes.items()}
        made = {path.stem: run.result() for path, run in runs.items()}

    scores = score_report(model, draft)
    summary = {"made": made, "versions": _versions(), "scores": scores}
    (out / "score.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(scores, indent=2))


if __name__ == "__main__":
    main()
