"""Keys and who holds them."""

from __future__ import annotations

import hashlib

import pytest

from gateway.config import ConfigError, TenantConfig
from gateway.errors import PermissionDenied, Unauthorized
from gateway.tenants.keys import Tenants

KEY = "sk-ho-7b1f0c2d9e8a4f6b-long"


def _tenants() -> Tenants:
    digest = hashlib.sha256(b"sk-hashed-0123").hexdigest()
    return Tenants(
        [
            TenantConfig(name="acme", keys=(KEY, "sk-second-key"), models=("demo",)),
            TenantConfig(name="hashed", key_sha256=(digest,)),
            TenantConfig(name="closed", keys=("sk-closed-0123",), disabled=True),
            TenantConfig(name="unicode", keys=("schlüssel-0123",)),
        ]
    )


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (f"Bearer {KEY}", "acme"),
        ("Bearer sk-second-key", "acme"),
        ("bearer sk-hashed-0123", "hashed"),
        (f"Bearer  {KEY} ", "acme"),
        ("Bearer schlüssel-0123", "unicode"),
    ],
)
def test_known_keys(header: str, name: str) -> None:
    """Each key leads to its tenant, declared in clear or as a digest."""
    tenant = _tenants().authenticate([header.encode()])

    assert tenant.name == name


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b""],
        [b"Bearer"],
        [b"Bearer  "],
        [KEY.encode()],
        [f"Basic {KEY}".encode()],
        [f"Bearer {KEY[:20]}{'0' * (len(KEY) - 20)}".encode()],
        [f"Bearer {KEY}0".encode()],
        [f"Bearer {KEY.upper()}".encode()],
        [b"Bearer " + hashlib.sha256(b"sk-hashed-0123").hexdigest().encode()],
        [b"Bearer ' UNION SELECT 1 --"],
        [b"Bearer \xff\xfe"],
        [f"Bearer {KEY}".encode(), f"Bearer {KEY}".encode()],
    ],
)
def test_unknown_keys(headers: list[bytes]) -> None:
    """Anything but one whole known key is refused, with a word on how to send one and none about the key."""
    with pytest.raises(Unauthorized, match="Authorization: Bearer") as caught:
        _tenants().authenticate(headers)

    assert KEY not in str(caught.value)


def test_disabled_tenant() -> None:
    """The key is right, the tenant may not call."""
    with pytest.raises(PermissionDenied, match="tenant closed is disabled"):
        _tenants().authenticate([b"Bearer sk-closed-0123"])


def test_one_key_one_tenant() -> None:
    """A key that two tenants share would charge the wrong one; neither message nor log shows it."""
    with pytest.raises(ConfigError, match="tenants a and b hold the same key") as caught:
        Tenants([TenantConfig(name="a", keys=(KEY,)), TenantConfig(name="b", keys=(KEY,))])

    assert KEY not in str(caught.value)


def test_models_of_a_tenant() -> None:
    """A list restricts, no list allows everything."""
    acme = _tenants().authenticate([f"Bearer {KEY}".encode()])
    hashed = _tenants().authenticate([b"Bearer sk-hashed-0123"])

    assert acme.may_use("demo")
    assert not acme.may_use("other")
    assert hashed.may_use("other")


def test_keys_are_not_kept() -> None:
    """No key in clear stays in memory."""
    assert KEY.encode() not in repr(vars(_tenants())).encode()
