from __future__ import annotations

from hypothesis import settings

# Hypothesis fails an example that takes longer than 200 ms, which says more about the machine than about the code.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")
