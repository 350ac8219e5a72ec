"""Quantized linears on the CPU: a small C++ library, and what Python needs of it. Optional: all works without it."""

from __future__ import annotations
