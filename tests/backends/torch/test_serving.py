"""The engine serves a model with this runner, in a process of its own."""

from __future__ import annotations

from backends.generation import ChatPrompt, Delta, Done, GenerateRequest, Message, Sampling
from gateway.demo import model_path
from gateway.engine.backend import start_engine_backend
from gateway.engine.config import EngineConfig
from gateway.engine.messages import Load


async def test_the_demo_model_answers() -> None:
    """Quantized weights, slots, chat template and all."""
    engine = EngineConfig(max_batch=2, max_context=256, kv_cache_mb=16, threads=1)
    load = Load(model_path=str(model_path()), runner="torch", engine=engine)
    backend = await start_engine_backend(load, name="demo")
    try:
        await backend.ready()
        request = GenerateRequest(
            request_id="r",
            prompt=ChatPrompt((Message(role="user", content="What is the capital of France?"),)),
            sampling=Sampling(temperature=0.0),
            max_tokens=24,
        )
        events = [event async for event in backend.generate(request)]
    finally:
        await backend.aclose()

    assert "Paris" in "".join(event.text for event in events if isinstance(event, Delta))
    assert isinstance(events[-1], Done)
    assert backend.facts is not None
    assert backend.facts.device == "cpu, 1 threads"
