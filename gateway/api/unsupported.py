"""Parameters of other servers that change the meaning of a response. They are rejected: ignoring them would mislead."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.errors import UnsupportedParameter

Harmless = tuple[object, ...]

_TOOLS = "this server does not call tools"
_FORMAT = "this server does not constrain the output; describe the format in the prompt and check the answer"
_TEXT_ONLY = "this server answers in text only"
_TEMPLATE = "the chat template is the model's own and cannot be changed by a request"
_SAMPLING = "this server does not know this sampling option; leave it out"

_EVERYWHERE: dict[str, tuple[Harmless, str]] = {
    "store": ((False,), "this server stores no requests; leave it out or set it to false"),
    "response_format": (({"type": "text"},), _FORMAT),
    "guided_json": ((), _FORMAT),
    "guided_regex": ((), _FORMAT),
    "guided_choice": ((), _FORMAT),
    "guided_grammar": ((), _FORMAT),
    "structured_outputs": ((), _FORMAT),
    "json_schema": ((), _FORMAT),
    "grammar": (("",), _FORMAT),
    "regex": ((), _FORMAT),
    "ebnf": ((), _FORMAT),
    "min_tokens": ((0,), _SAMPLING),
    "stop_token_ids": (([],), _SAMPLING),
    "allowed_token_ids": ((), _SAMPLING),
    "bad_words": (([],), _SAMPLING),
    "use_beam_search": ((False,), _SAMPLING),
    "include_stop_str_in_output": ((False,), _SAMPLING),
    "truncate_prompt_tokens": ((), "prompts are never cut; shorten them yourself"),
    "prompt_logprobs": ((), "log-probabilities of the prompt are not computed"),
    "prompt_embeds": ((), "prompts are texts or token ids"),
}
CHAT: dict[str, tuple[Harmless, str]] = _EVERYWHERE | {
    "tools": (([],), _TOOLS),
    "tool_choice": (("none", "auto"), _TOOLS),
    "functions": (([],), _TOOLS),
    "function_call": (("none", "auto"), _TOOLS),
    "web_search_options": ((), "this server does not search the web"),
    "audio": ((), _TEXT_ONLY),
    "modalities": ((["text"],), _TEXT_ONLY),
    "chat_template": ((), _TEMPLATE),
    "chat_template_kwargs": (({},), _TEMPLATE),
    "add_generation_prompt": ((True,), _TEMPLATE),
    "continue_final_message": ((False,), _TEMPLATE),
    "documents": (([],), _TEMPLATE),
    "best_of": ((1,), "use n"),
    "echo": ((False,), "echo exists in /v1/completions only"),
}
COMPLETIONS: dict[str, tuple[Harmless, str]] = _EVERYWHERE | {
    "suffix": (("",), "this server continues texts and does not fill gaps"),
}


def refuse_unsupported(given: Mapping[str, msgspec.Raw], refused: Mapping[str, tuple[Harmless, str]]) -> None:
    """Raise `UnsupportedParameter` for the first parameter whose value is neither null nor harmless."""
    for name in given.keys() & refused.keys():
        harmless, sentence = refused[name]
        refuse_unless(given[name], harmless, param=name, sentence=sentence)


def refuse_unless(value: msgspec.Raw, harmless: Harmless, *, param: str, sentence: str) -> None:
    """Raise `UnsupportedParameter` unless the value is null or one of `harmless`, type for type."""
    decoded = msgspec.json.decode(value)
    if decoded is None or any(type(decoded) is type(each) and decoded == each for each in harmless):
        return
    raise UnsupportedParameter(f"{param} is not supported: {sentence}", param=param)
