"""tokenizer.json → GGUF metadata, read back by the reader that serves GGUF files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from backends.errors import ModelError, UnsupportedModel
from backends.models.spec import ModelSpec
from backends.quantize.readback import decoded
from backends.quantize.vocabulary import VocabularyMetadata, vocabulary_of_folder
from backends.text import tokenizer as text_tokenizer
from backends.text.gguf_tokenizer import build_from_metadata
from backends.text.load import load_tokenizer
from backends.text.pretokenizers import NAMES
from tests.backends.text.vocabularies import (
    TEXTS,
    byte_level_engine,
    train_sentencepiece,
    write_folder,
)


def spec(vocab_size: int, **changes: object) -> ModelSpec:
    plain = ModelSpec(
        family="llama",
        hidden_size=64,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=64,
        ffn_size=64,
        vocab_size=vocab_size,
        max_context=64,
    )
    return msgspec.structs.replace(plain, **changes)


def read_back(vocabulary: VocabularyMetadata) -> text_tokenizer.Tokenizer:
    return build_from_metadata(decoded(vocabulary.metadata, where="written"), where="written")


def edited(folder: Path, **changes: Any) -> Path:  # Any: steps of a tokenizer.json
    path = folder / "tokenizer.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | changes))
    return folder


@pytest.mark.parametrize("with_bos", [False, True])
def test_byte_level_vocabularies(tmp_path: Path, with_bos: bool) -> None:
    """Ids, bytes, ends and specials are the folder's; rows without a token are named."""
    folder = write_folder(tmp_path, byte_level_engine(with_bos=with_bos))

    vocabulary = vocabulary_of_folder(folder, spec(512))

    ours, theirs = read_back(vocabulary), load_tokenizer(folder)
    for text in (*TEXTS, "<|im_start|>user\nhi<|im_end|>", "a<think>b</think>"):
        assert ours.encode(text) == theirs.encode(text), text
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id)
    assert ours.specials == theirs.specials
    assert all(ours.token_bytes(token_id) == theirs.token_bytes(token_id) for token_id in range(theirs.vocab_size))
    assert ours.vocab_size == 512
    assert vocabulary.faults == ()
    assert any("[PAD" in note for note in vocabulary.notes)


def sentencepiece_engine(processor: sentencepiece.SentencePieceProcessor, *, adds_space: bool) -> Tokenizer:
    """Tokenizer as transformers converts a SentencePiece BPE model: every split of a piece is a merge, best score
    first.
    """
    count = processor.get_piece_size()
    ids = {processor.id_to_piece(index): index for index in range(count)}
    ordinary = {piece: index for piece, index in ids.items() if _is_ordinary(processor, index)}
    merges = sorted(_splits(ordinary), key=lambda pair: -processor.get_score(ids[pair[0] + pair[1]]))
    engine = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = normalizers.Replace(" ", "▁")
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if adds_space else spaces
    engine.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    engine.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    engine.add_tokens([AddedToken("<think>", normalized=False)])
    engine.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return engine


def _splits(ids: dict[str, int]) -> Iterator[tuple[str, str]]:
    for piece in ids:
        for cut in range(1, len(piece)):
            if piece[:cut] in ids and piece[cut:] in ids:
                yield piece[:cut], piece[cut:]


def _is_ordinary(processor: sentencepiece.SentencePieceProcessor, index: int) -> bool:
    return not (processor.is_unknown(index) or processor.is_control(index) or processor.is_byte(index))


@pytest.mark.parametrize("adds_space", [False, True])
def test_sentencepiece_vocabularies(tmp_path: Path, adds_space: bool) -> None:
    """Merges become scores and come back as the same ids, bytes included."""
    processor = train_sentencepiece(TEXTS[2:], add_dummy_prefix=adds_space)
    engine = sentencepiece_engine(processor, adds_space=adds_space)
    folder = write_folder(tmp_path, engine, bos_token="<s>", eos_token="</s>")

    vocabulary = vocabulary_of_folder(folder, spec(engine.get_vocab_size()))

    ours, theirs = read_back(vocabulary), load_tokenizer(folder)
    for text in (*TEXTS, "a<think>b", "漢字 and </s> <s>x"):
        assert ours.encode(text) == theirs.encode(text), text
    assert vocabulary.faults == ()
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_id, theirs.eos_id)


@pytest.mark.parametrize(("patterns", "ignore_merges"), NAMES)
def test_every_pre_tokenizer_is_recognised(tmp_path: Path, patterns: tuple[str, ...], ignore_merges: bool) -> None:
    """Pre-tokenizers are recognised as the models' own files spell them, steps of Split, then bytes; texts get the
    folder's ids.
    """
    engine = byte_level_engine()
    engine.model.ignore_merges = ignore_merges
    by_pattern = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    engine.pre_tokenizer = pre_tokenizers.Sequence([*by_pattern, pre_tokenizers.ByteLevel(False, use_regex=False)])
    folder = write_folder(tmp_path, engine)

    vocabulary = vocabulary_of_folder(folder, spec(503))

    assert decoded(vocabulary.metadata, where="t")["tokenizer.ggml.pre"] == NAMES[patterns, ignore_merges]
    ours, theirs = read_back(vocabulary), load_tokenizer(folder)
    for text in TEXTS:
        assert ours.encode(text) == theirs.encode(text), text


def test_single_digits_are_recognised(tmp_path: Path) -> None:
    """SmolLM spells its pre-tokenizer as steps of other kinds."""
    engine = byte_level_engine()
    engine.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )

    vocabulary = vocabulary_of_folder(write_folder(tmp_path, engine), spec(503))

    assert decoded(vocabulary.metadata, where="t")["tokenizer.ggml.pre"] == "smollm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}}, "space before"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel"}]}},
            "cuts",
        ),
        ({"model": {"type": "Unigram", "vocab": [["a", -1.0]], "unk_id": 0}}, "Unigram"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "WordPiece"),
    ],
)
def test_kinds_without_words_are_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """The message names the file and what is missing."""
    folder = edited(write_folder(tmp_path, byte_level_engine()), **changes)

    with pytest.raises(UnsupportedModel, match=message) as refused:
        vocabulary_of_folder(folder, spec(503))
    assert "tokenizer.json" in str(refused.value)


def test_added_tokens_that_take_space_are_a_fault(tmp_path: Path) -> None:
    """GGUF metadata has no word for it, and ids would differ."""
    engine = byte_level_engine()
    engine.add_special_tokens([AddedToken("<|user|>", rstrip=True, normalized=False)])

    vocabulary = vocabulary_of_folder(write_folder(tmp_path, engine), spec(504))

    assert len(vocabulary.faults) == 1
    assert "<|user|>" in vocabulary.faults[0]


def test_normalization_is_said(tmp_path: Path) -> None:
    """NFC is left out by every GGUF file and noted; anything else is a fault."""
    engine = byte_level_engine()
    engine.normalizer = normalizers.NFC()
    noted = vocabulary_of_folder(write_folder(tmp_path, engine), spec(503))
    engine.normalizer = normalizers.Lowercase()
    faulty = vocabulary_of_folder(write_folder(tmp_path, engine), spec(503))

    assert any("NFC" in note for note in noted.notes)
    assert noted.faults == ()
    assert any("Lowercase" in fault for fault in faulty.faults)


def test_merges_that_scores_cannot_say(tmp_path: Path) -> None:
    """A merge too few or out of order would change ids, so it is a fault."""
    engine = sentencepiece_engine(train_sentencepiece(TEXTS[2:]), adds_space=True)
    folder = write_folder(tmp_path, engine, bos_token="<s>", eos_token="</s>")
    model = msgspec.json.decode((folder / "tokenizer.json").read_bytes())["model"]

    edited(folder, model=model | {"merges": model["merges"][:-5]})

    assert any("merges" in fault for fault in vocabulary_of_folder(folder, spec(engine.get_vocab_size())).faults)


def test_ids_beyond_the_embedding_are_refused(tmp_path: Path) -> None:
    """A token without a row could never be computed."""
    folder = write_folder(tmp_path, byte_level_engine())

    with pytest.raises(ModelError, match="the model has 400 rows"):
        vocabulary_of_folder(folder, spec(400))


def test_several_ends_fit(tmp_path: Path) -> None:
    """The tokenizer's EOS comes first; two more of the configuration follow."""
    folder = write_folder(tmp_path, byte_level_engine())
    ids = byte_level_engine().get_vocab()
    ends = (ids["<|endoftext|>"], ids["<|im_end|>"])

    metadata = decoded(vocabulary_of_folder(folder, spec(503, eos_token_ids=ends)).metadata, where="t")

    assert metadata["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"]
    assert metadata["tokenizer.ggml.eot_token_id"] == ids["<|endoftext|>"]


def test_templates(tmp_path: Path) -> None:
    """A file of its own wins; of several templates the default one is the template."""
    named = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    folder = write_folder(tmp_path, byte_level_engine(), chat_template=named)
    several = decoded(vocabulary_of_folder(folder, spec(503)).metadata, where="t")
    (folder / "chat_template.jinja").write_text("J")
    single = decoded(vocabulary_of_folder(folder, spec(503)).metadata, where="t")

    assert (several["tokenizer.chat_template"], several["tokenizer.chat_template.tool_use"]) == ("D", "T")
    assert several["tokenizer.chat_templates"] == ("tool_use",)
    assert single["tokenizer.chat_template"] == "J"


def test_damaged_files_are_model_errors(tmp_path: Path) -> None:
    """Damaged files are model errors, also where only the library finds the damage."""
    folder = write_folder(tmp_path, byte_level_engine())
    edited(folder, post_processor={"type": "Nonsense"})

    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        vocabulary_of_folder(folder, spec(503))
    assert tokenizers.__version__


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    """The message says what writes one."""
    with pytest.raises(ModelError, match="save_pretrained"):
        vocabulary_of_folder(tmp_path, spec(503))
