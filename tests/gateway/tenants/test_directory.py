"""Keys and their tenants."""

from __future__ import annotations

import contextlib
import hashlib
import random
import statistics
import time

import pytest

from gateway.errors import TenantDisabled, Unauthorized
from gateway.tenants.auth.directory import Changes, Directory, KeyEntry
from gateway.tenants.policy import Key, Tenant
from gateway.tenants.records import TenantConfig
from tests.gateway.tenants.declared import directory_of

KEY = "sk-ho-7b1f0c2d9e8a4f6b-long"


def _tenants() -> Directory:
    digest = hashlib.sha256(b"sk-hashed-0123").hexdigest()
    return directory_of(
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
    caller = _tenants().authenticate([header.encode()])

    assert caller.tenant.name == name


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


def test_time_tells_nothing() -> None:
    """A wrong key takes as long whether its first character is wrong or its last: to a twentieth, best of three."""
    directory = _tenants()
    keys = [f"Bearer x{KEY[1:]}".encode(), f"Bearer {KEY[:-1]}x".encode()]

    medians = [[statistics.median(taken) for taken in _refusal_times(directory, keys)] for _ in range(3)]

    assert min(abs(first / last - 1) for first, last in medians) < 0.05


def _refusal_times(directory: Directory, headers: list[bytes]) -> list[list[int]]:
    """Nanoseconds of 1,000 refusals of each, in an order of chance, since what came before has its part in the time."""
    order = [number for number in range(len(headers)) for _ in range(1000)]
    random.Random(7).shuffle(order)
    times: list[list[int]] = [[] for _ in headers]
    for number in order:
        start = time.perf_counter_ns()
        with contextlib.suppress(Unauthorized):
            directory.authenticate([headers[number]])
        times[number].append(time.perf_counter_ns() - start)
    return times


def test_disabled_tenant() -> None:
    """The key is right, the tenant may not call."""
    with pytest.raises(TenantDisabled, match="tenant closed is disabled"):
        _tenants().authenticate([b"Bearer sk-closed-0123"])


def test_models_of_a_tenant() -> None:
    """A list restricts, no list allows everything."""
    acme = _tenants().authenticate([f"Bearer {KEY}".encode()]).tenant
    hashed = _tenants().authenticate([b"Bearer sk-hashed-0123"]).tenant

    assert acme.may_use("demo")
    assert not acme.may_use("other")
    assert hashed.may_use("other")


def test_keys_are_not_kept() -> None:
    """No key in clear stays in memory."""
    assert KEY.encode() not in repr(vars(_tenants())).encode()


def test_expired_and_unscoped() -> None:
    """A key ends at its time, to the moment; what it may do travels with the caller."""
    now = [1000.0]
    key = Key(id="k", tenant_id="acme", scopes=("admin:read",), expires_at=1001.0)
    entry = KeyEntry(hashlib.sha256(KEY.encode()).digest(), key)
    changes = Changes(version=1, tenants={"acme": Tenant(id="acme", name="acme")}, keys=(entry,))
    directory = Directory(changes, wall_clock=lambda: now[0])

    caller = directory.authenticate([f"Bearer {KEY}".encode()])
    now[0] = 1001.0

    assert (caller.has("admin:read"), caller.has("inference")) == (True, False)
    with pytest.raises(Unauthorized, match="has expired"):
        directory.authenticate([f"Bearer {KEY}".encode()])


def test_changes() -> None:
    """A key without its entry opens nothing; a tenant that is gone takes its keys along; uses are told once."""
    directory = _tenants()
    bearer = [f"Bearer {KEY}".encode()]
    directory.authenticate(bearer)

    assert list(directory.take_used()) == ["acme-0"]
    assert directory.take_used() == {}
    directory.apply(Changes(version=2, keys=(KeyEntry(hashlib.sha256(KEY.encode()).digest(), None),)))
    with pytest.raises(Unauthorized, match="not known"):
        directory.authenticate(bearer)
    directory.apply(Changes(version=3, tenants={"acme": None}))
    with pytest.raises(Unauthorized, match="not known"):
        directory.authenticate([b"Bearer sk-second-key"])
    assert directory.version == 3
