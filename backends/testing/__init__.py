"""Shipped fakes, references and model makers, for testing a backend."""

from __future__ import annotations

from backends.api import Runner


def create_fake_runner(*, threads: int = 0, exact: bool = False) -> Runner:
    """See `backends.testing.fake.create_fake_runner`."""
    from backends.testing import fake

    return fake.create_fake_runner(threads=threads, exact=exact)
