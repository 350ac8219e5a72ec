from itertools import islice

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from tools.demo_model.corpus import Corpus
from tools.demo_model.facts import load_facts
from tools.demo_model.tokenizer import CHAT_TEMPLATE, END_OF_TURN, Exchange, Segment, dialogue, encode, train_tokenizer


def test_digits_are_split_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("2048").tokens == ["2", "0", "4", "8"]


def test_any_text_survives_the_round_trip(tokenizer: Tokenizer) -> None:
    """Byte-level: nothing is unknown, even in scripts the corpus never showed."""
    text = "Wie heißt 東京? 🙂\n\n  Zürich's  don't!"

    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_training_text_is_what_the_chat_template_renders(tokenizer: Tokenizer) -> None:
    """The model must meet in use the very tokens it was trained on."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHAT_TEMPLATE)
    messages = [
        {"role": "system", "content": "Be concise."},
        {"role": "user", "content": "capital of France"},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "And Spain?"},
    ]
    asked = dialogue([Exchange("capital of France", "The capital of France is Paris."), Exchange("And Spain?", "")])

    rendered = fast.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)

    system = Segment(f"<|im_start|>system\nBe concise.{END_OF_TURN}\n")
    assert encode(tokenizer, (system, *asked[:-1]))[0] == rendered


def test_same_corpus_gives_the_same_tokenizer() -> None:
    def trained() -> str:
        sample = islice(Corpus(load_facts(), 1).conversations(), 300)
        return train_tokenizer(segment.text for conversation in sample for segment in conversation).to_str()

    assert trained() == trained()
