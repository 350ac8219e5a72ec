"""The tokenizer of a Hugging Face folder, against the tokenizers library and transformers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from backends.errors import ModelError, RequestError, UnsupportedModel
from backends.text.load import load_tokenizer
from tests.backends.text.vocabularies import TEXTS, byte_level_engine, write_folder


@pytest.mark.parametrize("text", TEXTS)
def test_raw_text_as_the_library(tmp_path: Path, text: str) -> None:
    """Ids equal the library's, and their bytes joined are the text."""
    engine = byte_level_engine()
    tokenizer = load_tokenizer(write_folder(tmp_path, engine))

    ids = tokenizer.encode(text)

    assert ids == engine.encode(text).ids
    assert b"".join(map(tokenizer.token_bytes, ids)).decode() == text


def test_special_tokens_in_raw_text_are_parsed(tmp_path: Path) -> None:
    """Raw prompts may hold special tokens, as OpenAI-compatible engines allow."""
    tokenizer = load_tokenizer(write_folder(tmp_path, byte_level_engine()))

    ids = tokenizer.encode("<|im_start|>user")

    assert tokenizer.is_special(ids[0])
    assert tokenizer.token_bytes(ids[0]) == b"<|im_start|>"
    assert not any(map(tokenizer.is_special, ids[1:]))


def test_bos_comes_from_the_post_processor(tmp_path: Path) -> None:
    """Raw prompts begin with the tokens that the post-processor puts ahead of a text."""
    engine = byte_level_engine(with_bos=True)
    tokenizer = load_tokenizer(write_folder(tmp_path, engine))

    ids = tokenizer.encode("hello")

    assert ids == engine.encode("hello").ids
    assert ids[0] == tokenizer.bos_id


@pytest.mark.parametrize(("with_bos", "add_bos_token"), [(False, True), (True, False)])
def test_bos_setting_yields_to_the_post_processor(tmp_path: Path, with_bos: bool, add_bos_token: bool) -> None:
    """The BOS setting of tokenizer_config.json counts as little as in transformers."""
    folder = write_folder(tmp_path, byte_level_engine(with_bos=with_bos), add_bos_token=add_bos_token)
    reference = PreTrainedTokenizerFast.from_pretrained(folder)

    ids = load_tokenizer(folder).encode("hello")

    assert ids == reference("hello")["input_ids"]


def test_chat_has_one_bos(tmp_path: Path) -> None:
    """BOS is added to a rendered chat only if the template has not written it."""
    tokenizer = load_tokenizer(write_folder(tmp_path, byte_level_engine(with_bos=True)))

    written, missing = tokenizer.encode_chat("<|endoftext|>hello"), tokenizer.encode_chat("hello")

    assert written == missing
    assert written.count(tokenizer.bos_id or -1) == 1


def test_truncation_and_padding_are_ignored(tmp_path: Path) -> None:
    """A tokenizer.json that was saved for training does not cut prompts."""
    engine = byte_level_engine()
    engine.enable_truncation(max_length=2)
    engine.enable_padding(length=5)
    tokenizer = load_tokenizer(write_folder(tmp_path, engine))

    assert (
        b"".join(map(tokenizer.token_bytes, tokenizer.encode("many guests in one house")))
        == b"many guests in one house"
    )


def test_barred_tokens_are_special(tmp_path: Path) -> None:
    """`<|user|>` is a control token even where tokenizer.json forgot to say so."""
    engine = byte_level_engine()
    engine.add_tokens(["<|user|>", "<tool>"])

    tokenizer = load_tokenizer(write_folder(tmp_path, engine))

    assert "<|user|>" in tokenizer.specials
    assert "<tool>" not in tokenizer.specials


def test_normalization_cannot_forge_a_special_token(tmp_path: Path) -> None:
    """A special token is sought in the text as typed, not in what it normalizes to."""
    engine = byte_level_engine()
    engine.normalizer = normalizers.NFKC()
    engine.add_special_tokens([AddedToken("<stop>", normalized=True)])
    tokenizer = load_tokenizer(write_folder(tmp_path, engine))

    ids = tokenizer.encode("＜stop＞")

    assert not any(map(tokenizer.is_special, ids))


def test_sentencepiece_spelling(tmp_path: Path) -> None:
    """`▁` is a space and `<0x0A>` a byte with a SentencePiece decoder."""
    pieces = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3} | {f"<0x{byte:02X}>": 4 + byte for byte in range(256)}
    engine = Tokenizer(models.BPE(vocab=pieces, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    engine.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    engine.add_special_tokens(["<unk>"])
    tokenizer = load_tokenizer(write_folder(tmp_path, engine, bos_token=None, eos_token=None))

    ids = tokenizer.encode("a é\n")

    assert ids == engine.encode("a é\n").ids
    assert b"".join(map(tokenizer.token_bytes, ids)) == " a é\n".encode()
    assert tokenizer.max_bytes_per_token == len("<unk>")


def test_unknown_decoder_is_refused(tmp_path: Path) -> None:
    """A model whose decoder is unknown is refused, since the bytes of its tokens, and so the exact text, would be
    unknown.
    """
    engine = byte_level_engine()
    engine.decoder = decoders.WordPiece()

    with pytest.raises(UnsupportedModel, match="WordPiece is not supported; supported are ByteLevel"):
        load_tokenizer(write_folder(tmp_path, engine))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """The error says which file is needed."""
    with pytest.raises(ModelError, match=r"tokenizer\.json: no such file; the tokenizer is read from tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}',
        b'{"added_tokens": 3}',
    ],
)
def test_damaged_file_is_a_model_error(tmp_path: Path, content: bytes) -> None:
    """A damaged tokenizer.json gives an error that names the file, whatever it contains."""
    (tmp_path / "tokenizer.json").write_bytes(content)

    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_panic_of_the_library_is_a_model_error(tmp_path: Path) -> None:
    """A post-processor that names no token makes Rust code panic; the answer is an error all the same."""
    folder = write_folder(tmp_path, byte_level_engine(with_bos=True))
    document = msgspec.json.decode((folder / "tokenizer.json").read_bytes())
    document["post_processor"]["special_tokens"] = {}
    (folder / "tokenizer.json").write_bytes(msgspec.json.encode(document))

    with pytest.raises(ModelError, match=r"tokenizer\.json: the tokenizers library fails on this vocabulary"):
        load_tokenizer(folder)


def test_gap_in_the_ids_is_refused(tmp_path: Path) -> None:
    """Added tokens that the library would number otherwise than the file are refused."""
    folder = write_folder(tmp_path, byte_level_engine())
    document = msgspec.json.decode((folder / "tokenizer.json").read_bytes())
    document["added_tokens"][-1]["id"] += 7
    (folder / "tokenizer.json").write_bytes(msgspec.json.encode(document))

    with pytest.raises(UnsupportedModel, match="'<think>' has id"):
        load_tokenizer(folder)


def test_unknown_end_token_is_refused(tmp_path: Path) -> None:
    """An end token outside the vocabulary is a contradiction between two files."""
    with pytest.raises(ModelError, match=r"tokenizer_config\.json: token '<nope>' is not in tokenizer\.json"):
        load_tokenizer(write_folder(tmp_path, byte_level_engine(), eos_token="<nope>"))


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    """A string that is no text is the request's fault."""
    tokenizer = load_tokenizer(write_folder(tmp_path, byte_level_engine()))

    with pytest.raises(RequestError, match="not valid Unicode"):
        tokenizer.encode("\ud800")


def test_ids_beyond_the_vocabulary_have_no_bytes(tmp_path: Path) -> None:
    """Models pad their vocabulary; a padded id stands for nothing."""
    tokenizer = load_tokenizer(write_folder(tmp_path, byte_level_engine()))

    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.token_bytes(-1) == b""
