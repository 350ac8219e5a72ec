"""The run's nonce: every random model, prompt and invented word of a run is drawn from it."""

from __future__ import annotations

import os
import random
import secrets

SEED = int(os.environ.setdefault("HOSTELRY_E2E_SEED", str(secrets.randbelow(2**31))))
"""Kept in the environment, so that all processes of a run draw from the same one."""

_CONSONANTS = "bdfgklmnprstvz"
_VOWELS = "aeiou"


def rng(purpose: str) -> random.Random:
    """A generator of its own for each purpose, so that adding a draw to one test does not move another's."""
    return random.Random(f"{SEED}/{purpose}")


def invented_word() -> str:
    """A capitalised word that is in no table of capitals, for example `Vuzokar`."""
    draw = rng("word")
    syllables = [draw.choice(_CONSONANTS) + draw.choice(_VOWELS) for _ in range(3)]
    return ("".join(syllables) + draw.choice("krxz")).capitalize()
