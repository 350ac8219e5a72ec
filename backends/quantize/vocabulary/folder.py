"""The tokenizer and chat template of a Hugging Face folder as metadata."""

from __future__ import annotations

from pathlib import Path

from backends.errors import ModelError
from backends.models.spec import ModelSpec
from backends.quantize.vocabulary.document import TokenizerDocument, read_document, token_list
from backends.quantize.vocabulary.models import VocabularyMetadata, tokenizer_metadata
from backends.text.gguf_vocabulary import TokenizerKey
from backends.text.template import DEFAULT, templates_of_folder
from backends.text.tokenizer import vocabulary_faults
from backends.text.tokenizer_files import (
    CONFIG_FILE,
    TokenizerConfig,
    TokenName,
    build_engine,
    prefix_ids,
    read_config,
    token_text,
)
from backends.weights.gguf.writer import EncodedValue, Kind, array, scalar

_END_KEYS = (TokenizerKey.EOS, TokenizerKey.EOT, TokenizerKey.EOM)
_MAX_NAMED = 4


class ConfigWithPad(TokenizerConfig, frozen=True):
    """tokenizer_config.json with the padding token, which GGUF files name and serving does not read."""

    pad_token: TokenName = None


def vocabulary_of_folder(folder: Path, spec: ModelSpec) -> VocabularyMetadata:
    """Tokenizer and chat template of a Hugging Face folder.

    Raises `ModelError` for damage and `UnsupportedModel` for a kind of tokenizer without words in GGUF files.
    """
    document = read_document(folder)
    tokens = token_list(document, vocab_size=spec.vocab_size)
    model = tokenizer_metadata(document, tokens)
    config = read_config(folder, ConfigWithPad)
    ends, end_faults = _end_metadata(config, document, spec)
    return VocabularyMetadata(
        metadata=model.metadata | ends | _template_metadata(folder, config),
        notes=model.notes + _padding_note(document, spec),
        faults=model.faults + _added_token_faults(document) + end_faults,
    )


def _padding_note(document: TokenizerDocument, spec: ModelSpec) -> tuple[str, ...]:
    missing = spec.vocab_size - document.num_tokens
    return (f"{missing} rows of the embedding have no token; they are named [PAD…]",) if missing else ()


def _end_metadata(
    config: ConfigWithPad, document: TokenizerDocument, spec: ModelSpec
) -> tuple[dict[str, EncodedValue], tuple[str, ...]]:
    """(metadata of BOS, EOS and their like, faults). Raises `ModelError` for a named token that does not exist."""
    bos = _token_id(config.bos_token, document)
    eos = _token_id(config.eos_token, document)
    with vocabulary_faults(document.where):
        prefix = prefix_ids(build_engine(document.raw), bos_id=bos, eos_id=eos)
    begin = bos if bos is not None else spec.bos_token_id
    faults: tuple[str, ...] = ()
    if prefix and begin is None:
        begin = prefix[0]
    if prefix not in ((), (begin,)):
        faults = (f"texts begin with the tokens {list(prefix)}; GGUF metadata can only say: with BOS or not",)
    ids = {TokenizerKey.BOS: begin, TokenizerKey.PADDING: _known_id(config.pad_token, document)}
    ids |= dict(zip(_END_KEYS, _ordered_ends(eos, spec), strict=False))
    metadata: dict[str, EncodedValue] = {
        key: scalar(Kind.UINT32, token_id) for key, token_id in ids.items() if token_id is not None
    }
    metadata[TokenizerKey.ADD_BOS] = scalar(Kind.BOOL, bool(prefix))
    return metadata, faults


def _token_id(token: TokenName, document: TokenizerDocument) -> int | None:
    token_id = _known_id(token, document)
    if token is not None and token_id is None:
        raise ModelError(f"{document.where}: token {token_text(token)!r}, which {CONFIG_FILE} names, does not exist")
    return token_id


def _known_id(token: TokenName, document: TokenizerDocument) -> int | None:
    content = token_text(token)
    if content is None:
        return None
    added = {known.content: known.id for known in document.added}
    return added.get(content, document.model.vocab.get(content))


def _ordered_ends(eos: int | None, spec: ModelSpec) -> list[int]:
    """The tokenizer's own EOS first; a file has room for two more, and readers know many by their text."""
    first = [] if eos is None else [eos]
    return list(dict.fromkeys([*first, *spec.eos_token_ids]))


def _template_metadata(folder: Path, config: TokenizerConfig) -> dict[str, EncodedValue]:
    """Metadata of several templates as the gguf package writes it: the default one, the others under their names."""
    templates = templates_of_folder(folder, config) or ()
    keys = {template.name: f"{TokenizerKey.CHAT_TEMPLATE}.{template.name}" for template in templates}
    keys[DEFAULT] = TokenizerKey.CHAT_TEMPLATE
    metadata = {keys[template.name]: scalar(Kind.STRING, template.text) for template in templates}
    others = [template.name for template in templates if template.name != DEFAULT]
    return metadata | ({TokenizerKey.CHAT_TEMPLATES: array(Kind.STRING, others)} if others else {})


def _added_token_faults(document: TokenizerDocument) -> tuple[str, ...]:
    """One sentence for each property of added tokens that GGUF files cannot say: taking adjacent space, whole words."""
    wide = [token.content for token in document.added if token.lstrip or token.rstrip]
    apart = [token.content for token in document.added if token.single_word and not token.special]
    faults = []
    if wide:
        faults.append(f"{_listed(wide)} take the space beside them, which GGUF metadata cannot say")
    if apart:
        faults.append(f"{_listed(apart)} are recognised between words only, which GGUF metadata cannot say")
    return tuple(faults)


def _listed(tokens: list[str]) -> str:
    shown = ", ".join(tokens[:_MAX_NAMED])
    more = len(tokens) - _MAX_NAMED
    return f"added tokens {shown}" + (f" and {more} more" if more > 0 else "")
