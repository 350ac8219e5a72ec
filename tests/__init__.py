from __future__ import annotations

import os

from hypothesis import settings

# References are computed by NumPy and torch while another worker does the same: threads of one product that wait for
# one another took four times the processor time of one thread. To be set before either is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

# Hypothesis fails an example that takes longer than 200 ms, which says more about the machine than about the code.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")
