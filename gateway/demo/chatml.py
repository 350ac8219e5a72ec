"""Conversations as text: the ChatML markers, the template that users' messages go through, and its training twin."""

from collections.abc import Sequence

import msgspec

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
    """The ChatML text of a conversation, exactly as the chat template renders it."""
    segments = [Segment(f"{START_OF_TURN}system\n{system}{END_OF_TURN}\n")] if system is not None else []
    for exchange in exchanges:
        segments.append(Segment(question_text(exchange.question)))
        segments.append(Segment(exchange.answer + END_OF_TURN, is_answer=True))
        segments.append(Segment("\n"))
    return tuple(segments[:-1])


def question_text(question: str) -> str:
    return f"{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"
