"""Which tokens are control tokens although their file calls them ordinary added tokens."""

from __future__ import annotations

import re

_BARRED = re.compile(r"<[|｜].+[|｜]>", re.DOTALL)


def looks_like_control(token: str) -> bool:
    """Whether a token is spelled `<|…|>` or `<｜…｜>`, as turn markers are (llama.cpp's converter judges alike)."""
    return _BARRED.fullmatch(token) is not None
