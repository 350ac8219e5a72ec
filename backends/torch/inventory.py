"""Which weights the decoder uses, told by the decoder itself."""

from __future__ import annotations

from backends.models.decoder import forward
from backends.models.spec import ModelSpec


class Inventory:
    """Ops that compute nothing and note the names: linears as they are merged, and norms."""

    def __init__(self, spec: ModelSpec) -> None:
        self.linears: list[tuple[str, ...]] = []
        self.norms: list[str] = []
        forward(spec, self)

    def embed(self) -> None: ...

    def norm(self, hidden: None, weight: str) -> None:
        del hidden
        self.norms.append(weight)

    def add_norm(self, branch: None, residual: None, weight: str) -> tuple[None, None]:
        del branch, residual
        self.norms.append(weight)
        return None, None

    def linear(self, x: None, names: tuple[str, ...]) -> None:
        del x
        self.linears.append(names)

    def attention(self, qkv: None, layer: int) -> None: ...

    def gated(self, gate_up: None) -> None: ...

    def head(self, normed: None, name: str) -> None:
        self.linear(normed, (name,))
