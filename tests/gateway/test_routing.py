"""Requested name → model."""

from __future__ import annotations

import pytest

from adapters.ref import AdapterRef
from backends.api import Health
from backends.testing.backend import FakeBackend
from gateway.errors import ModelNotFound, ModelNotReady
from gateway.routing import Models, Route, ServedModel
from gateway.tenants.policy import Policy, Tenant

ACME = Tenant(name="acme")
LAWYER = Tenant(name="lawyer", policy=Policy(default_adapter="law", aliases={"best": "llama", "poet": "llama:verse"}))
NARROW = Tenant(name="narrow", policy=Policy(models=("qwen",)))


LAW, TAX, VERSE = (
    AdapterRef(name="law", base="", path=""),
    AdapterRef(name="tax", base="", path="", tenants=("lawyer", "narrow")),
    AdapterRef(name="verse", base="", path="", tenants=("lawyer",)),
)


def _served(name: str, *adapters: AdapterRef, ready: bool = True) -> ServedModel:
    backend = FakeBackend(health=Health(ready=ready, progress=0.5), adapters=bool(adapters))
    return ServedModel(name=name, backend=backend, adapters=adapters)


def test_finds_by_name() -> None:
    """The exact name, in declared order for lists."""
    models = Models([_served("qwen"), _served("llama")])

    assert models.route("llama", ACME) == models.find("llama", ACME)
    assert [route.name for route in models.visible_to(ACME)] == ["qwen", "llama"]
    assert [route.name for route in models.visible_to(NARROW)] == ["qwen"]


def test_suggests_the_nearest_names_this_tenant_may_use() -> None:
    """A typo is answered with what was meant, but never with what is hidden."""
    models = Models([_served("qwen"), _served("llama")])

    with pytest.raises(ModelNotFound, match=r"did you mean llama\?"):
        models.route("lama", ACME)
    with pytest.raises(ModelNotFound, match=r"models you may use: qwen$"):
        models.route("llama", NARROW)


def test_no_models_at_all() -> None:
    """The message stays a sentence."""
    with pytest.raises(ModelNotFound, match=r"models you may use: none$"):
        Models().route("x", ACME)


def test_unknown_adapter() -> None:
    """A known base with an unknown adapter says so, to whom may see the base."""
    models = Models([_served("qwen"), _served("llama")])

    with pytest.raises(ModelNotFound, match="model llama has no adapter 'law'"):
        models.route("llama:law", ACME)
    with pytest.raises(ModelNotFound, match="does not exist"):
        models.route("llama:law", NARROW)


@pytest.mark.parametrize(
    ("requested", "adapter"),
    [("llama", "law"), ("best", "law"), ("llama:tax", "tax"), ("best:tax", "tax"), ("poet", "verse"), ("a:b", "law")],
)
def test_adapters(requested: str, adapter: str) -> None:
    """The one that is named, also behind or within an alias, else the tenant's own. A whole name comes first."""
    own = (LAW, TAX, VERSE)
    models = Models([_served("llama", *own), _served("a:b", *own), _served("a", *own)])

    route = models.route(requested, LAWYER)

    assert route.adapter == adapter
    assert route.served.name == ("a:b" if requested == "a:b" else "llama")


@pytest.mark.parametrize("requested", ["llama", "best", "llama:law", "poet", "llama:", "best:tax"])
@pytest.mark.parametrize("declared", [(), (LAW, TAX, VERSE)])
def test_never_without_the_adapter(requested: str, declared: tuple[AdapterRef, ...]) -> None:
    """An engine that serves none does not answer with the model alone, which is another one, whatever is declared."""
    models = Models([ServedModel(name="llama", backend=FakeBackend(), adapters=declared)])

    with pytest.raises(ModelNotFound, match="model llama has no adapter"):
        models.route(requested, LAWYER)


def test_adapters_of_others_do_not_exist() -> None:
    """Adapters of other tenants are neither found, nor listed, nor suggested; a tenant that may not use the base sees
    none of its adapters.
    """
    models = Models([_served("llama", LAW, TAX), _served("qwen", VERSE)])

    for look in (models.route, models.find):
        with pytest.raises(ModelNotFound, match=r"model llama has no adapter 'tax'; use llama alone, or llama:law$"):
            look("llama:tax", ACME)
    assert [route.name for route in models.visible_to(ACME)] == ["llama", "llama:law", "qwen"]
    assert [route.name for route in models.visible_to(NARROW)] == ["qwen"]
    assert [route.name for route in models.visible_to(LAWYER)] == [
        "llama",
        "llama:law",
        "llama:tax",
        "qwen",
        "qwen:verse",
    ]


def test_suggests_the_nearest_adapter() -> None:
    """The error suggests the nearest adapter by its full request name; without any, the model alone."""
    models = Models([_served("llama", LAW, TAX), _served("qwen")])

    with pytest.raises(ModelNotFound, match=r"has no adapter 'laws'; did you mean llama:law\?"):
        models.route("llama:laws", ACME)
    with pytest.raises(ModelNotFound, match=r"has no adapter 'law'; use qwen alone$"):
        models.route("qwen:law", ACME)
    with pytest.raises(ModelNotFound, match=r"did you mean llama:law"):
        models.route("lama:law", ACME)


def test_own_adapter_of_others() -> None:
    """A default that is not this tenant's is no way around."""
    tenant = Tenant(name="guest", policy=Policy(default_adapter="tax"))

    with pytest.raises(ModelNotFound, match="'tax', which is the default_adapter of tenant guest"):
        Models([_served("llama", LAW, TAX)]).route("llama", tenant)


def test_found_alone() -> None:
    """`find` tells what a name is, without a tenant's own adapter; a route's name is the whole one."""
    models = Models([_served("llama", LAW)])

    assert models.find("llama", LAWYER).name == "llama"
    assert models.route("llama", LAWYER).name == "llama:law"
    assert models.find("best:law", LAWYER) == models.route("llama", LAWYER) == Route(next(iter(models)), "law")


def test_own_adapter_is_told() -> None:
    """The error for an adapter that the request did not name says that it is the tenant's default."""
    with pytest.raises(ModelNotFound, match="'law', which is the default_adapter of tenant lawyer"):
        Models([_served("llama")]).route("llama", LAWYER)


def test_a_name_is_one_alias_at_most() -> None:
    """The target of an alias is not resolved as an alias again."""
    tenant = Tenant(name="t", policy=Policy(aliases={"a": "llama", "llama": "qwen"}))
    models = Models([_served("qwen"), _served("llama")])

    assert models.route("a", tenant).served.name == "llama"
    assert models.route("llama", tenant).served.name == "qwen"


def test_not_ready() -> None:
    """A loading model can be found and not be asked."""
    models = Models([_served("qwen", ready=False)], expected=("qwen", "llama"))

    assert models.find("qwen", ACME).name == "qwen"
    with pytest.raises(ModelNotReady, match="50% loaded"):
        models.route("qwen", ACME)
    with pytest.raises(ModelNotReady):
        models.route("llama", ACME)
    with pytest.raises(ModelNotFound):
        models.route("llama", NARROW)


def test_one_name_one_model() -> None:
    """A second model of the same name is refused."""
    with pytest.raises(ValueError, match="two models are called qwen"):
        Models([_served("qwen"), _served("qwen")])
