"""Resolves a requested name to the model or adapter that serves it, within what the tenant may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches

import msgspec

from adapters.ref import AdapterRef
from backends.api import Backend
from gateway.batching.messages import EngineStats
from gateway.engine.client_side.step_histograms import StepHistograms
from gateway.engine.messages import Ready
from gateway.errors import ModelNotFound, ModelNotReady
from gateway.tenants.limits.prices import FREE, Price
from gateway.tenants.policy import Tenant


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model under its public name. `stats` and `facts` read what the engine reports; `created` in Unix s."""

    name: str
    backend: Backend
    owned_by: str = "hostelry"
    created: int = msgspec.field(default_factory=lambda: int(time.time()))
    stats: Callable[[], EngineStats | None] | None = None
    facts: Callable[[], Ready | None] | None = None
    step_histograms: StepHistograms | None = None
    price: Price = FREE
    adapters: tuple[AdapterRef, ...] = ()

    def adapters_for(self, tenant: Tenant) -> list[str]:
        """Names of the adapters that this tenant may use, if it may use the model."""
        return [adapter.name for adapter in self.adapters if not adapter.tenants or tenant.name in adapter.tenants]

    def has_adapter(self, name: str, tenant: Tenant) -> bool:
        """True if its engine serves the adapter. Valid once the backend is ready."""
        return name in self.adapters_for(tenant) and self.backend.capabilities().adapters


class Route(msgspec.Struct, frozen=True):
    """Target of a request: a model, and the requested adapter or the tenant's default one."""

    served: ServedModel
    adapter: str | None = None

    @property
    def name(self) -> str:
        """Full name, under which any tenant reaches the same: the adapter is included."""
        return self.served.name if self.adapter is None else f"{self.served.name}:{self.adapter}"


class Models:
    """All served models by name, in the order they were declared. They may still be loading."""

    def __init__(self, served: Iterable[ServedModel] = (), *, expected: Iterable[str] = ()) -> None:
        """`expected` names models that will be added later and until then count as not ready."""
        self._by_name: dict[str, ServedModel] = {}
        self._expected = tuple(expected)
        for model in served:
            self.add(model)

    def add(self, model: ServedModel) -> None:
        """Add a model. Raises `ValueError` if the name is taken."""
        if model.name in self._by_name:
            raise ValueError(f"two models are called {model.name}; give one another name")
        self._by_name[model.name] = model

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Names that were expected and not yet added."""
        return tuple(name for name in self._expected if name not in self._by_name)

    def visible_to(self, tenant: Tenant) -> list[Route]:
        """All names that this tenant may use: models, each followed by its adapters."""
        models = [model for model in self if tenant.may_use(model.name)]
        return [Route(model, adapter) for model in models for adapter in (None, *model.adapters_for(tenant))]

    def find(self, requested: str, tenant: Tenant) -> Route:
        """Find a model or adapter by name, ready or not; a model's name is the model alone.

        Raises `ModelNotFound` with the nearest names this tenant may use, or `ModelNotReady` for a model that is
        expected.
        """
        base, adapter = self._parts(requested, tenant)
        model = self._known(base, tenant)
        if adapter is not None and adapter not in model.adapters_for(tenant):
            raise _no_adapter(model, adapter, tenant)
        return Route(model, adapter)

    def route(self, requested: str, tenant: Tenant) -> Route:
        """Route a name: a model, or `model:adapter`; a model alone gets the tenant's default adapter.

        An adapter that the engine cannot serve, or that is not this tenant's, is `ModelNotFound`, since the model alone
        would be another one. Raises what `find` raises, too, and `ModelNotReady`.
        """
        base, adapter = self._parts(requested, tenant)
        model = self._known(base, tenant)
        _require_ready(model)
        if adapter is None:
            return self._with_own_adapter(model, tenant)
        if not model.has_adapter(adapter, tenant):
            raise _no_adapter(model, adapter, tenant)
        return Route(model, adapter)

    def _parts(self, requested: str, tenant: Tenant) -> tuple[str, str | None]:
        """Model and adapter of a name. A model's name, or one without a usable model before its colon, is whole."""
        whole = tenant.model_of(requested)
        base, colon, adapter = whole.partition(":")
        if whole == requested:
            base = tenant.model_of(base)
        if not colon or whole in self._by_name or base not in self._by_name or not tenant.may_use(base):
            return whole, None
        return base, adapter

    def _known(self, name: str, tenant: Tenant) -> ServedModel:
        model = self._by_name.get(name)
        if model is not None and tenant.may_use(name):
            return model
        if name in self.missing and tenant.may_use(name):
            raise ModelNotReady(f"model {name} is not ready yet; try again soon", param="model")
        raise ModelNotFound(self._not_found(name, tenant), param="model")

    def _with_own_adapter(self, model: ServedModel, tenant: Tenant) -> Route:
        adapter = tenant.policy.default_adapter
        if adapter is not None and not model.has_adapter(adapter, tenant):
            raise ModelNotFound(
                f"model {model.name} has no adapter {adapter!r}, which is the default_adapter of tenant {tenant.name}; "
                "ask the operator of this server to declare it for this tenant or to take it away",
                param="model",
            )
        return Route(model, adapter)

    def _not_found(self, requested: str, tenant: Tenant) -> str:
        names = [route.name for route in self.visible_to(tenant)]
        near = get_close_matches(requested[:128], names, n=3)
        listed = ", ".join(near or names[:8])
        hint = f"did you mean {listed}?" if near else f"models you may use: {listed or 'none'}"
        shown = requested if len(requested) <= 128 else requested[:128] + "…"
        return f"model {shown!r} does not exist; {hint}"


def _no_adapter(model: ServedModel, adapter: str, tenant: Tenant) -> ModelNotFound:
    names = model.adapters_for(tenant)
    near = get_close_matches(adapter[:128], names, n=3)
    listed = ", ".join(f"{model.name}:{name}" for name in near or names[:8])
    hint = f"did you mean {listed}?" if near else f"use {model.name} alone" + (f", or {listed}" if listed else "")
    return ModelNotFound(f"model {model.name} has no adapter {adapter[:128]!r}; {hint}", param="model")


def _require_ready(model: ServedModel) -> None:
    health = model.backend.health()
    if not health.ready:
        percent = f" ({health.progress:.0%} loaded)" if health.progress < 1 else ""
        raise ModelNotReady(f"model {model.name} is not ready yet{percent}; try again soon", param="model")
