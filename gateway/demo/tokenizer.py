"""The demo tokenizer: byte-level BPE with the pre-tokenizer that llama.cpp calls `qwen2`."""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from gateway.demo.chatml import SPECIALS, Conversation

VOCABULARY = 1024

# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2: splits digits one by one.
PRE_TOKENIZER = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Token ids, and for each whether it belongs to an answer.
Row = tuple[list[int], list[bool]]


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    tokenizer = _without_vocabulary(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def build_tokenizer(tokens: list[str], merges: list[tuple[str, str]]) -> Tokenizer:
    """The same tokenizer from its token list and merges, which is all that a GGUF file holds."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = _without_vocabulary(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def encode(tokenizer: Tokenizer, conversation: Conversation) -> Row:
    ids: list[int] = []
    is_answer: list[bool] = []
    for segment in conversation:
        piece = tokenizer.encode(segment.text).ids
        ids += piece
        is_answer += [segment.is_answer] * len(piece)
    return ids, is_answer


def _without_vocabulary(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
