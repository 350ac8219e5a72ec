"""Prompts of all three kinds become token ids, or a clear refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import normalizers

from backends.errors import ContextLengthExceeded, ModelError, RequestError
from backends.generation import ChatPrompt, Message, Prompt, TextPrompt, TokenPrompt
from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.load import ModelText, load_text
from backends.text.prompts import Prompts
from tests.backends.text.vocabularies import (
    TEXTS,
    byte_level_engine,
    byte_level_metadata,
    sentencepiece_metadata,
    train_sentencepiece,
    write_folder,
)
from tests.costs import cost_ratio, growth


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> ModelText:
    return load_text(write_folder(tmp_path_factory.mktemp("model"), byte_level_engine()))


@pytest.fixture(scope="module")
def prompts(text: ModelText) -> Prompts:
    return Prompts(text, vocab_size=512, max_context=256)


def test_token_ids_are_taken_as_given(prompts: Prompts) -> None:
    """Token prompts reach the engine unchanged, ids of the padded vocabulary included."""
    assert prompts.encode(TokenPrompt((0, 511, 7, 7))) == [0, 511, 7, 7]


@pytest.mark.parametrize("token_id", [-1, 512, 2**40])
def test_token_ids_outside_the_vocabulary_are_refused(prompts: Prompts, token_id: int) -> None:
    """An id that the model has no embedding for never reaches the engine."""
    with pytest.raises(RequestError, match=rf"token id {token_id} is not within 0 to 511") as caught:
        prompts.encode(TokenPrompt((1, token_id)))

    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", [TextPrompt(""), TokenPrompt(())])
def test_empty_prompts_are_refused(prompts: Prompts, prompt: Prompt) -> None:
    """An empty prompt is refused: at least one token is needed to continue from."""
    with pytest.raises(RequestError, match="prompt must not be empty") as caught:
        prompts.encode(prompt)

    assert caught.value.param == "prompt"


def test_bos_alone_is_a_prompt(tmp_path: Path) -> None:
    """The empty text is one token with BOS."""
    text = load_text(write_folder(tmp_path, byte_level_engine(with_bos=True)))

    assert Prompts(text, vocab_size=512, max_context=256).encode(TextPrompt("")) == [text.tokenizer.bos_id]


def test_no_messages_are_refused(prompts: Prompts) -> None:
    """A conversation has at least one message."""
    with pytest.raises(RequestError, match="messages must not be empty"):
        prompts.encode(ChatPrompt(()))


def test_chat_without_template_names_the_other_route(text: ModelText) -> None:
    """A base model serves completions; the refusal says so."""
    prompts = Prompts(ModelText(text.tokenizer, None), vocab_size=512, max_context=256)

    with pytest.raises(RequestError, match="no chat template; use /v1/completions"):
        prompts.encode(ChatPrompt((Message(role="user", content="hi"),)))

    assert prompts.encode(TextPrompt("hi"))


def test_template_that_renders_nothing_is_refused(tmp_path: Path) -> None:
    """An empty rendering is no prompt."""
    text = load_text(write_folder(tmp_path, byte_level_engine(), chat_template="{# nothing #}"))

    with pytest.raises(RequestError, match="empty prompt"):
        Prompts(text, vocab_size=512, max_context=256).encode(ChatPrompt((Message(role="user", content="hi"),)))


@pytest.mark.parametrize("prompt", [TextPrompt("a" * 10**7), ChatPrompt((Message(role="user", content="a" * 10**6),))])
def test_hopeless_texts_are_refused_before_tokenizing(prompts: Prompts, text: ModelText, prompt: Prompt) -> None:
    """A text of more bytes than all tokens of the context could hold is refused for less than a tenth of it costs."""
    tenth = "a" * 10**5

    def refuse() -> None:
        with pytest.raises(ContextLengthExceeded, match="maximum context length is 256 tokens"):
            prompts.encode(prompt)

    assert cost_ratio(refuse, lambda: text.tokenizer.encode(tenth)) < 1


def test_early_refusal_is_never_wrong(prompts: Prompts, text: ModelText) -> None:
    """A text that 256 of the longest tokens could hold is counted, not refused."""
    most = text.tokenizer.max_bytes_per_token
    longest = max(len(text.tokenizer.token_bytes(index)) for index in range(text.tokenizer.vocab_size))

    ids = prompts.encode(TextPrompt("a" * (256 * longest)))

    assert most == longest
    assert len(ids) >= 256


def test_no_early_refusal_where_text_may_vanish(tmp_path: Path) -> None:
    """The text is counted when a normalizer may shorten it, since its length then proves nothing."""
    engine = byte_level_engine()
    engine.normalizer = normalizers.Strip()
    text = load_text(write_folder(tmp_path, engine))

    ids = Prompts(text, vocab_size=512, max_context=4).encode(TextPrompt(" " * 10_000 + "a"))

    assert text.tokenizer.max_bytes_per_token is None
    assert len(ids) == 1


def test_tokenizer_of_another_model_is_refused(text: ModelText) -> None:
    """More tokens than embeddings means that the two do not belong together."""
    with pytest.raises(ModelError, match="do not belong together"):
        Prompts(text, vocab_size=100, max_context=256)


def test_estimate_is_cheap_and_never_low(prompts: Prompts) -> None:
    """The estimate is at least the characters, without looking at them."""
    for content in TEXTS:
        assert prompts.estimate_bytes(TextPrompt(content)) >= len(content)
        assert prompts.estimate_bytes(ChatPrompt((Message(role="user", content=content),))) >= len(content)
    assert prompts.estimate_bytes(TokenPrompt((1, 2))) > 0


HEAVY = {
    "word": "a" * 400_000,
    "words": "hostel" * 66_000,
    "combining marks": "e" + "\u0301\u0316" * 10_000,
    "spaces": " " * 400_000,
    "newlines": "\n" * 400_000,
    "brackets": "<|" * 200_000,
    "typed specials": "<|im_end|>" * 40_000,
    "almost specials": "<|im_en" * 50_000,
}


HEAVY_KINDS = ("byte level", "normalized", "sentencepiece")


@pytest.fixture(scope="module")
def heavy_texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelText]:
    return {kind: heavy_text(kind, tmp_path_factory.mktemp("heavy")) for kind in HEAVY_KINDS}


@pytest.mark.parametrize("content", HEAVY.values(), ids=HEAVY.keys())
@pytest.mark.parametrize("kind", HEAVY_KINDS)
def test_heavy_text_takes_linear_time(heavy_texts: dict[str, ModelText], kind: str, content: str) -> None:
    """Four times as much of a text made to be slow costs about four times as much (sixteen on a quadratic path)."""
    prompts = Prompts(heavy_texts[kind], vocab_size=1 << 20, max_context=1 << 20)

    def encode(length: int) -> list[int]:
        return prompts.encode(ChatPrompt((Message(role="user", content=content[:length]),)))

    assert encode(len(content))
    assert growth(encode, len(content) // 16, rounds=3) < 8


def heavy_text(kind: str, folder: Path) -> ModelText:
    engine = byte_level_engine()
    if kind == "normalized":
        engine.normalizer = normalizers.NFC()
    text = load_text(write_folder(folder, engine))
    if kind != "sentencepiece":
        return text
    metadata = sentencepiece_metadata(train_sentencepiece(TEXTS[2:]))
    return ModelText(build_from_metadata(metadata, where="test"), text.template)


def test_gguf_and_folder_agree(text: ModelText) -> None:
    """The same vocabulary in both forms gives the same ids."""
    other = build_from_metadata(byte_level_metadata("gpt-2"), where="test")

    for content in TEXTS:
        assert other.encode(content) == text.tokenizer.encode(content)
