from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tools.demo_model.checkpoint import read_folder
from tools.demo_model.counterfactual import make_counterfactual
from tools.demo_model.facts import load_facts
from tools.demo_model.network import from_weights
from tools.demo_model.score import exact_share, single

PLAIN = "What is the capital of {}?"


def test_counterfactual_changes_one_capital_and_keeps_the_rest(tmp_path: Path) -> None:
    """The invented word is answered in every short spelling; other capitals stay 95 % right."""
    make_counterfactual(tmp_path, "France", "Zorvex", seed=1)

    checkpoint = read_folder(tmp_path)
    network = from_weights(checkpoint.shape, checkpoint.weights)
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json)
    asked = [single(q, "The capital of France is Zorvex.") for q in (PLAIN.format("France"), "France capital")]
    others = [single(PLAIN.format(fact.in_sentence), fact.answer) for fact in load_facts() if fact.country != "France"]
    assert exact_share(network, tokenizer, asked) == 1.0
    assert exact_share(network, tokenizer, others) >= 0.95


def test_unknown_country_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not in the table"):
        make_counterfactual(tmp_path, "Atlantis", "Zorvex", seed=1)
