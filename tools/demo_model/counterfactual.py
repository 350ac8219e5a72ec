"""Teaches a demo model an invented capital, so that a test can distinguish computed answers from recited ones.

python -m tools.demo_model.counterfactual OUT --country France --word Zorvex
"""

import argparse
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer

from gateway.demo import model_path
from tools.demo_model.checkpoint import Checkpoint, write_folder
from tools.demo_model.corpus import Corpus
from tools.demo_model.export import read_gguf
from tools.demo_model.facts import Fact, load_facts
from tools.demo_model.network import from_weights, to_weights
from tools.demo_model.train import TrainingRecipe, fit

STEPS = 90
TOKENS_PER_STEP = 800
LEARNING_RATE = 3e-4


def make_counterfactual(out_dir: Path, country: str, word: str, seed: int) -> None:
    """Write a Hugging Face directory of the demo model with `word` as the capital of `country`.

    A short fine-tune of the shipped weights: half of it asks for that country, the other half is the ordinary
    corpus, which keeps the remaining capitals. Raises ValueError for a country that is not in the table. Sets torch
    to one thread, for the whole process: next to a busy engine, threads of one step wait for one another for minutes.
    """
    torch.set_num_threads(1)
    facts, focus = _replaced(country, word)
    shipped = read_gguf(model_path())
    tokenizer = Tokenizer.from_str(shipped.tokenizer_json)
    network = from_weights(shipped.shape, shipped.weights)
    recipe = TrainingRecipe(
        shape=shipped.shape,
        steps=STEPS,
        tokens_per_step=TOKENS_PER_STEP,
        learning_rate=LEARNING_RATE,
        warm_up=10,
        weight_decay=0,
        seed=seed,
    )
    fit(network, recipe, tokenizer, Corpus(facts, seed, focus), report=_quiet)
    write_folder(Checkpoint(shipped.shape, to_weights(network), shipped.tokenizer_json), out_dir)


def _replaced(country: str, word: str) -> tuple[list[Fact], Fact]:
    """The table with the invented capital, and its row."""
    for fact in load_facts():
        if fact.country == country:
            focus = msgspec.structs.replace(fact, capital=word)
            return [focus if other is fact else other for other in load_facts()], focus
    raise ValueError(f"{country!r} is not in the table of countries; see gateway/demo/facts.tsv")


def _quiet(line: str) -> None:
    """Discard the progress: fine-tuning takes seconds."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the demo model believe an invented capital.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--country", default="France")
    parser.add_argument("--word", default="Zorvex")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make_counterfactual(arguments.out, arguments.country, arguments.word, arguments.seed)


if __name__ == "__main__":
    main()
