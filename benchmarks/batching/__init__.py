"""What batching must hold, measured as clients see it; `python -m benchmarks.batching`."""
