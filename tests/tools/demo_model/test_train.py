from itertools import pairwise

from tokenizers import Tokenizer

from tools.demo_model.checkpoint import CheckpointWeights, ModelShape
from tools.demo_model.corpus import Corpus
from tools.demo_model.facts import load_facts
from tools.demo_model.network import to_weights
from tools.demo_model.train import IGNORED, TrainingRecipe, batches, learning_rate, train

TINY = TrainingRecipe(
    shape=ModelShape(hidden=64, layers=1, ffn=64, heads=2, kv_heads=1, head_dim=32),
    steps=6,
    learning_rate=1e-2,
    tokens_per_step=400,
    warm_up=1,
)


def run(tokenizer: Tokenizer, lines: list[str]) -> CheckpointWeights:
    return to_weights(train(TINY, tokenizer, Corpus(load_facts(), 2), report=lines.append))


def test_a_few_steps_lower_the_loss(tokenizer: Tokenizer) -> None:
    lines: list[str] = []

    run(tokenizer, lines)

    assert float(lines[-1].split("loss ")[1].split()[0]) < 6.9  # ln 1024 = 6.93, where an untrained model stands


def test_same_seed_and_threads_give_the_same_weights(tokenizer: Tokenizer) -> None:
    first, second = run(tokenizer, []), run(tokenizer, [])

    assert all((first[name] == second[name]).all() for name in first)


def test_loss_counts_answers_only(tokenizer: Tokenizer) -> None:
    ids, targets = next(batches(tokenizer, Corpus(load_facts(), 2).conversations(), tokens=200, context=64, seed=1))
    counted = targets != IGNORED

    assert counted.any()
    assert not counted.all()
    assert (targets[:, :-1][counted[:, :-1]] == ids[:, 1:][counted[:, :-1]]).all()


def test_learning_rate_rises_then_falls() -> None:
    recipe = TrainingRecipe(shape=TINY.shape, steps=50, learning_rate=1.0, warm_up=10)

    rates = [learning_rate(recipe, step) for step in range(50)]

    assert max(rates) == rates[9] == 1.0
    assert all(later < earlier for earlier, later in pairwise(rates[10:]))
