"""Real engine processes: killed, frozen, orphaned, closed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from backends.errors import ModelError
from gateway.batching.messages import Failure
from gateway.engine.client_side.supervisor import RestartPolicy, Supervisor
from tests.gateway.engine.making import (
    FOREVER,
    PATIENCE_S,
    make_add,
    make_load,
    read_to_end,
    running_client,
    tokens_of,
)


def process_of(client: Supervisor) -> psutil.Process:
    assert client.pid is not None
    return psutil.Process(client.pid)


async def test_process_answers_and_leaves_nothing_behind(model_path: Path) -> None:
    """Load, generate, close: the process is gone when `aclose` returns."""
    async with running_client(make_load(model_path)) as client:
        await client.ready()
        process = process_of(client)

        outputs = await read_to_end(client.submit(make_add(max_tokens=5)))

    assert len(tokens_of(outputs)) == 5
    assert not process.is_running()
    assert client.state.phase == "closed"


async def test_refused_model_is_an_error_with_the_engines_words(tmp_path: Path) -> None:
    """`ready` raises; nothing is started again."""
    async with running_client(make_load(tmp_path / "nothing")) as client:
        with pytest.raises(ModelError, match="nothing"):
            await client.ready()

        assert client.state.phase == "failed"
        assert client.num_restarts == 0
        assert client.pid is None


async def test_killed_engine_fails_started_requests_and_comes_back(model_path: Path) -> None:
    """kill -9 mid-stream: `engine_failed` sooner than an engine starts, then a new engine answers the same."""
    async with running_client(make_load(model_path)) as client:
        asked_at = time.monotonic()
        await client.ready()
        start_s = time.monotonic() - asked_at
        expected = tokens_of(await read_to_end(client.submit(make_add())))
        stream = client.submit(make_add(max_tokens=FOREVER))
        await stream.get()

        killed_at = time.monotonic()
        process_of(client).send_signal(signal.SIGKILL)
        outputs = await read_to_end(stream)
        told_s = time.monotonic() - killed_at

        assert told_s < start_s
        assert outputs[-1].error is not None
        assert outputs[-1].error.code == "engine_failed"
        assert tokens_of(await read_to_end(client.submit(make_add()))) == expected
        assert client.num_restarts == 1


async def test_unstarted_request_survives_its_engine(model_path: Path) -> None:
    """A request that has shown nothing is replayed by the next engine, with the same tokens."""
    async with running_client(make_load(model_path)) as client:
        await client.ready()
        expected = tokens_of(await read_to_end(client.submit(make_add(seed=3))))
        frozen = process_of(client)
        frozen.suspend()
        stream = client.submit(make_add(seed=3))

        frozen.send_signal(signal.SIGKILL)

        assert tokens_of(await read_to_end(stream)) == expected


async def test_frozen_engine_is_killed_and_replaced(model_path: Path) -> None:
    """No sign of life while an answer is owed: after the timeout the request is replayed elsewhere."""
    async with running_client(make_load(model_path), hang_timeout_s=2.0) as client:
        await client.ready()
        frozen = process_of(client)
        frozen.suspend()

        outputs = await read_to_end(client.submit(make_add()))

        assert outputs[-1].finish_reason == "length"
        assert not frozen.is_running()
        assert client.num_restarts == 1


async def test_frozen_engine_is_closed_by_force(model_path: Path) -> None:
    """An engine that cannot read is gone, too, when `aclose` returns; its requests get the error."""
    async with running_client(make_load(model_path)) as client:
        await client.ready()
        frozen = process_of(client)
        frozen.suspend()
        stream = client.submit(make_add())

    assert [output.error for output in await read_to_end(stream)] == [
        Failure("server_shutdown", "the server is shutting down")
    ]
    assert not frozen.is_running()


async def test_engine_that_keeps_dying_is_given_up(model_path: Path) -> None:
    """The state is `failed` when too many processes have died, and open requests get the error."""
    policy = RestartPolicy(first_s=0.01, longest_s=0.01, most=2)
    async with running_client(make_load(model_path), restarts=policy) as client:
        await client.ready()
        process_of(client).suspend()
        stream = client.submit(make_add(max_tokens=FOREVER))
        process_of(client).kill()
        await stream.get()
        process_of(client).kill()

        outputs = await read_to_end(stream)

        assert outputs[-1].error is not None
        assert outputs[-1].error.code == "engine_failed"
        await client.ended()
        assert client.state.phase == "failed"
        assert "failed too often" in client.state.detail
        assert "SIGKILL" in client.state.detail


async def test_signals_for_the_whole_group_do_not_stop_the_engine(model_path: Path) -> None:
    """Ctrl-C and a service manager's SIGTERM are the gateway's to answer: it may still want to drain."""
    async with running_client(make_load(model_path)) as client:
        await client.ready()
        for number in (signal.SIGINT, signal.SIGTERM):
            process_of(client).send_signal(number)

        outputs = await read_to_end(client.submit(make_add(max_tokens=2000)))

        assert outputs[-1].finish_reason == "length"
        assert client.num_restarts == 0


_GATEWAY = """
import asyncio, sys
from pathlib import Path
from tests.gateway.engine.making import FOREVER, make_add, make_load, running_client

async def main():
    async with running_client(make_load(Path(sys.argv[1]))) as client:
        await client.ready()
        stream = client.submit(make_add(max_tokens=FOREVER))
        await stream.get()
        print(client.pid, flush=True)
        while True:
            await stream.get()

asyncio.run(main())
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_engine_does_not_outlive_a_killed_gateway(model_path: Path, frozen: bool) -> None:
    """kill -9 of the gateway, mid-stream: the engine goes by itself, on Linux even when it is frozen."""
    if frozen and sys.platform != "linux":
        pytest.skip("only Linux can tie a frozen process to its parent")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", _GATEWAY, str(model_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as gateway:
        assert gateway.stdout is not None
        engine = psutil.Process(int(gateway.stdout.readline()))
        if frozen:
            engine.suspend()

        gateway.kill()

    gone, alive = psutil.wait_procs([engine], timeout=PATIENCE_S)
    assert gone
    assert not alive
