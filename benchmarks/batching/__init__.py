"""Measures batching as clients see it; `python -m benchmarks.batching`."""
