"""The demo tokenizer (byte-level BPE), and dialogues as ChatML text."""

from collections.abc import Iterable, Sequence

import msgspec
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
SPECIALS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Exchange(msgspec.Struct, frozen=True):
    question: str
    answer: str


class Segment(msgspec.Struct, frozen=True):
    """A stretch of text; the loss counts only where `is_answer`."""

    text: str
    is_answer: bool = False


Conversation = tuple[Segment, ...]


def dialogue(exchanges: Sequence[Exchange], system: str | None = None) -> Conversation:
    """The ChatML text of a dialogue, exactly as the chat template renders it."""
    segments = [Segment(f"{START_OF_TURN}system\n{system}{END_OF_TURN}\n")] if system is not None else []
    for exchange in exchanges:
        segments.append(Segment(question_text(exchange.question)))
        segments.append(Segment(exchange.answer + END_OF_TURN, is_answer=True))
        segments.append(Segment("\n"))
    return tuple(segments[:-1])


def question_text(question: str) -> str:
    return f"{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"


VOCABULARY = 1024

# llama.cpp, src/llama-vocab.cpp, LLAMA_VOCAB_PRE_TYPE_QWEN2: splits digits one by one.
PRE_TOKENIZER = "qwen2"
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Token ids, and for each whether it belongs to an answer.
TokenRow = tuple[list[int], list[bool]]


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
    """The same tokenizer from its token list and merges, which is all that a GGUF file has."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = _without_vocabulary(models.BPE(vocabulary, merges))
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def encode(tokenizer: Tokenizer, conversation: Conversation) -> TokenRow:
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
