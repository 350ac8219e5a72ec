"""`/metrics` as numbers."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from e2e.harness.wire import get


class Counters:
    """A snapshot. A counter that was never touched reads 0."""

    def __init__(self, url: str) -> None:
        response = get(f"{url}/metrics")
        assert response.status_code == 200, response.text[:300]
        self._samples = [
            sample for family in text_string_to_metric_families(response.text) for sample in family.samples
        ]

    def total(self, name: str, **labels: str) -> float:
        """Sum over all samples of that name which carry these labels."""
        return sum(
            sample.value for sample in self._samples if sample.name == name and labels.items() <= sample.labels.items()
        )

    def has(self, name: str) -> bool:
        return any(sample.name == name for sample in self._samples)
