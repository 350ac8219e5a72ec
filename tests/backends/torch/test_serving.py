"""The engine serves a model with this runner, in a process of its own."""

from __future__ import annotations

from backends.generation import ChatPrompt, Delta, Done, GenerateRequest, Message, Sampling
from gateway.demo import model_path
from gateway.engine.backend import EngineOptions, start_engine_backend


async def test_the_demo_model_answers() -> None:
    """Quantized weights, slots, chat template and all."""
    options = EngineOptions(
        name="demo", model_path=model_path(), runner="torch", max_batch=2, max_context=256, kv_bytes=2**24, threads=1
    )
    backend = await start_engine_backend(options)
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
