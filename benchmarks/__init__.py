"""Committed measurements: each script prints its numbers and writes them to `benchmarks/results/`."""
