"""Which weights the decoder uses, told by the decoder itself."""

from __future__ import annotations

from backends.models.decoder import forward
from backends.models.spec import ModelSpec


class Inventory:
    """Ops that compute nothing and note the names: linears as they are merged, and norms."""

    def __init__(self, spec: ModelSpec) -> None:
        self.linears: list[tuple[str, ...]] = []
        self.norms: list[str] = []
        self._num_experts = spec.num_experts
        forward(spec, self)

    def embed(self) -> None: ...

    def norm(self, hidden: None, weight: str) -> None:
        del hidden
        self.norms.append(weight)

    def add(self, branch: None, residual: None) -> None: ...

    def add_norm(self, branch: None, residual: None, weight: str) -> tuple[None, None]:
        del branch, residual
        self.norms.append(weight)
        return None, None

    def scale(self, x: None, factor: float) -> None: ...

    def softcap(self, x: None, cap: float) -> None: ...

    def linear(self, x: None, names: tuple[str, ...]) -> None:
        del x
        self.linears.append(names)

    def attention(self, qkv: None, layer: int) -> None: ...

    def select(self, x: None) -> None: ...

    def gated(self, gate_up: None) -> None: ...

    def experts(self, normed: None, layer: int) -> None:
        self.linear(normed, (f"layers.{layer}.router",))
        for expert in range(self._num_experts):
            prefix = f"layers.{layer}.experts.{expert}"
            self.linear(normed, (f"{prefix}.gate", f"{prefix}.up"))
            self.linear(normed, (f"{prefix}.down",))

    def head(self, normed: None, name: str) -> None:
        self.linear(normed, (name,))
