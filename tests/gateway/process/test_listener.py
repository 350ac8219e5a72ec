from __future__ import annotations

import pytest

from gateway.process.listener import PortInUse, bind, url_of


def test_port_zero_picks_a_free_one() -> None:
    """The address printed is the one that was bound."""
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_taken_port_names_the_way_out() -> None:
    """The message offers the next port."""
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]

        with pytest.raises(PortInUse, match=f"--port {port + 1}"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused() -> None:
    """An address that this machine does not have is an error, not a guess."""
    with pytest.raises(PortInUse, match=r"192\.0\.2\.1"):
        bind("192.0.2.1", 0)
