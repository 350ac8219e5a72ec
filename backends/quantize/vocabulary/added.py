"""Added tokens that ask for more than GGUF files can say of a token."""

from __future__ import annotations

from backends.quantize.vocabulary.document import TokenizerDocument

_SHOWN = 4


def added_token_faults(document: TokenizerDocument) -> tuple[str, ...]:
    """One sentence a property: tokens that swallow the space beside them, or that must be words of their own."""
    wide = [token.content for token in document.added if token.lstrip or token.rstrip]
    apart = [token.content for token in document.added if token.single_word and not token.special]
    faults = []
    if wide:
        faults.append(f"{_list(wide)} take the space beside them, which GGUF metadata cannot say")
    if apart:
        faults.append(f"{_list(apart)} are recognised between words only, which GGUF metadata cannot say")
    return tuple(faults)


def _list(tokens: list[str]) -> str:
    shown = ", ".join(tokens[:_SHOWN])
    more = len(tokens) - _SHOWN
    return f"added tokens {shown}" + (f" and {more} more" if more > 0 else "")
