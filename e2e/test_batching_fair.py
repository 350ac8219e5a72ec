"""Many tenants on one engine, from outside: who floods it does not keep the others waiting."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import httpx
import msgspec
import openai
import pytest

from e2e.harness.server import Server

FLOOD, LIGHT = "sk-ho-flood-0123456789", "sk-ho-light-0123456789"
CONFIG = f"""
[[tenants]]
name = "flood"
keys = ["{FLOOD}"]

[[tenants]]
name = "light"
keys = ["{LIGHT}"]
"""
MODEL = "hostelry-demo"
NUM_FLOOD, FLOOD_TOKENS = 64, 900
A_FEW_STEPS_S = 0.02
NUM_LIGHT, LIGHT_TOKENS, PAUSE_S = 8, 4, 0.2


class Waits(msgspec.Struct, frozen=True):
    """Seconds to the first token of a light tenant's requests, alone and beside a flood; and what the engine says."""

    alone: list[float]
    beside: list[float]
    flood_left: int
    """Requests of the flood that had not ended when the last light one had."""
    preempted: float = 0.0


def waits_with(scheduling: str, folder: Path) -> Waits:
    folder.mkdir()
    config = folder / "hostelry.toml"
    config.write_text(CONFIG)
    flags = ["--config", str(config), "--scheduling", scheduling, "--max-batch", "4"]
    server = Server(["--port", "0", "--data-dir", str(folder / "data"), *flags])
    try:
        url = server.wait_ready()
        waits = asyncio.run(_measure(f"{url}/v1"))
        preempted = _sample(httpx.get(f"{url}/metrics").text, "hostelry_engine_preempted_total")
        return msgspec.structs.replace(waits, preempted=preempted)
    finally:
        server.stop()


async def _measure(url: str) -> Waits:
    async with (
        openai.AsyncOpenAI(base_url=url, api_key=FLOOD, max_retries=0, timeout=120) as flood,
        openai.AsyncOpenAI(base_url=url, api_key=LIGHT, max_retries=0, timeout=120) as light,
    ):
        await _first_token_s(light)
        alone = [await _first_token_s(light) for _ in range(NUM_LIGHT)]
        running = [asyncio.create_task(_whole(flood)) for _ in range(NUM_FLOOD)]
        await asyncio.sleep(1.0)
        beside = []
        for _ in range(NUM_LIGHT):
            beside.append(await _first_token_s(light))
            await asyncio.sleep(PAUSE_S)
        left = sum(not task.done() for task in running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return Waits(alone, beside, left)


def _sample(metrics: str, name: str) -> float:
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if line.startswith(name))


async def _whole(client: openai.AsyncOpenAI) -> None:
    await client.completions.create(
        model=MODEL, prompt="Tell me", max_tokens=FLOOD_TOKENS, extra_body={"ignore_eos": True}
    )


async def _first_token_s(client: openai.AsyncOpenAI) -> float:
    start = time.perf_counter()
    stream = await client.completions.create(
        model=MODEL, prompt="Hello", max_tokens=LIGHT_TOKENS, stream=True, extra_body={"ignore_eos": True}
    )
    first = 0.0
    async for _ in stream:
        first = first or time.perf_counter() - start
    return first


@pytest.fixture(scope="module")
def fair(tmp_path_factory: pytest.TempPathFactory) -> Waits:
    return waits_with("fair", tmp_path_factory.mktemp("batching") / "fair")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Waits:
    return waits_with("fcfs", tmp_path_factory.mktemp("batching") / "fcfs")


def test_a_light_tenant_beside_a_flood(fair: Waits, control: Waits) -> None:
    """Its first token comes while the flood still waits, many times sooner than first come first served lets it."""
    assert fair.flood_left > 0
    assert fair.preempted >= 1
    assert control.preempted == 0
    assert statistics.median(fair.beside) < 2 * statistics.median(fair.alone) + A_FEW_STEPS_S, fair
    assert max(fair.beside) < max(control.beside) / 10, (fair, control)
