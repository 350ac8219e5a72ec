"""P11: the official client works unmodified, and a WebSocket says what SSE says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import openai

from e2e.harness.completions import engine, wait_idle
from e2e.harness.running_server import Known, Target
from e2e.harness.shape import assert_error_body
from e2e.harness.sockets import conversation, handshake_status
from e2e.harness.wire import Json, ask, stream

QUESTION = "What is the capital of France?"
LONG, STEPS = 400, 20
"""Tokens of an answer that is cancelled near its beginning, and steps after which its place must be free."""


def check_p11(target: Target, known: Known) -> None:
    check_p11_sync(target, known)
    asyncio.run(check_p11_async(target, known))
    asyncio.run(check_p11_socket(target, known))
    asyncio.run(check_p11_socket_interleaves(target, known))
    asyncio.run(check_p11_socket_cancel(target, known))
    asyncio.run(check_p11_socket_errors(target, known))


def check_p11_sync(target: Target, known: Known) -> None:
    """`openai.OpenAI`: models, chat, completions, stream, its own exceptions."""
    wanted = known.demo.chat(QUESTION).text
    with openai.OpenAI(base_url=target.api, api_key=target.keys.acme, max_retries=0, timeout=300) as client:
        assert "demo" in [model.id for model in client.models.list()]
        assert client.models.retrieve("demo").id == "demo"

        whole = client.chat.completions.create(
            model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0
        )
        assert whole.choices[0].message.content == wanted
        assert whole.usage is not None
        assert whole.usage.completion_tokens == len(known.demo.chat(QUESTION).ids)

        pieces = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
            temperature=0,
            stream=True,
        )
        assert "".join(chunk.choices[0].delta.content or "" for chunk in pieces if chunk.choices) == wanted

        done = client.completions.create(model="demo", prompt="The capital of France is", temperature=0, max_tokens=10)
        assert "Paris" in done.choices[0].text

        missing = _refusal(lambda: client.completions.create(model="no-such-model", prompt="Hi"))
        assert isinstance(missing, openai.NotFoundError), missing
        assert missing.code == "model_not_found", missing
        assert missing.request_id, "no request id"
    with openai.OpenAI(base_url=target.api, api_key="sk-ho-wrong-0000000000", max_retries=0) as stranger:
        refused = _refusal(stranger.models.list)
        assert isinstance(refused, openai.AuthenticationError), refused
        assert refused.code == "invalid_api_key", refused


def _refusal(call: Callable[[], object]) -> openai.APIStatusError:
    """The client's own exception, which the call must raise."""
    try:
        answer = call()
    except openai.APIStatusError as error:
        return error
    raise AssertionError(f"answered instead of refusing: {answer}")


async def check_p11_async(target: Target, known: Known) -> None:
    """`openai.AsyncOpenAI`, whole and streamed at the same time."""
    wanted = known.demo.chat(QUESTION).text
    async with openai.AsyncOpenAI(
        base_url=target.api, api_key=target.keys.globex, max_retries=0, timeout=300
    ) as client:
        whole, streamed = await asyncio.gather(_whole(client), _streamed(client))
    assert whole == wanted
    assert streamed == wanted


async def _whole(client: openai.AsyncOpenAI) -> str | None:
    answer = await client.chat.completions.create(
        model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0
    )
    return answer.choices[0].message.content


async def _streamed(client: openai.AsyncOpenAI) -> str:
    chunks = await client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    texts, usage = [], None
    async for chunk in chunks:
        texts += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert usage is not None
    return "".join(texts)


async def check_p11_socket(target: Target, known: Known) -> None:
    """The same chat over WebSocket: the same text and kinds of chunk as over SSE, tagged with its id."""
    body = ask(QUESTION, max_tokens=40, stream_options={"include_usage": True})
    over_sse = await asyncio.to_thread(stream, f"{target.api}/chat/completions", body, target.keys.acme)

    async with conversation(target.api, target.keys.acme) as socket:
        await socket.send("one", body)
        await socket.receive_until_done("one")

    assert socket.text("one") == over_sse.text == known.demo.chat(QUESTION).text
    assert socket.frames[-1] == {"type": "done", "request_id": "one"}, socket.frames[-1]
    assert _without_pace(socket.chunks("one")) == _without_pace(over_sse.chunks)
    assert {frozenset(chunk) - {"request_id"} for chunk in socket.chunks("one")} == set(map(frozenset, over_sse.chunks))
    for key in (None, "sk-ho-wrong-0000000000", target.keys.disabled):
        assert await handshake_status(target.api, key) in (401, 403), key


def _without_pace(chunks: list[Json]) -> list[Json]:
    """Chunks without what differs between two runs: ids, times, and how many tokens a busy server joins in one."""
    first, *_, finish, usage = chunks
    changing = {"id", "created", "request_id"}
    return [{name: chunk[name] for name in chunk.keys() - changing} for chunk in (first, finish, usage)]


async def check_p11_socket_interleaves(target: Target, known: Known) -> None:
    """Two requests share one socket: the short one ends while the long one still runs, and both are right."""
    long, short = ask("Count to 30.", model="big", max_tokens=60, ignore_eos=True), ask(QUESTION, max_tokens=40)
    async with conversation(target.api, target.keys.acme) as socket:
        await socket.send("long", long)
        while len(socket.chunks("long")) < 3:
            await socket.receive()
        await socket.send("short", short)
        await socket.receive_until_done("short")
        assert not socket.is_finished("long"), "the short request waited for the long one"
        await socket.receive_until_done("long")

    assert socket.text("short") == known.demo.chat(QUESTION).text
    assert socket.text("long") == known.demo.chat("Count to 30.", max_tokens=60, ignore_eos=True).text
    assert {frame.get("request_id") for frame in socket.frames} == {"long", "short"}


async def check_p11_socket_cancel(target: Target, known: Known) -> None:
    """A cancelled request ends early, its place is free at once, and the socket goes on."""
    async with conversation(target.api, target.keys.acme) as socket:
        await socket.send("long", ask("Count to 30.", model="big", max_tokens=LONG, ignore_eos=True))
        while len(socket.chunks("long")) < 5:
            await socket.receive()
        await socket.cancel("long")
        before = engine(target, "big")
        await asyncio.to_thread(wait_idle, target, "big")
        after = engine(target, "big")
        await socket.send("next", ask(QUESTION, max_tokens=40))
        await socket.receive_until_done("next")

    assert after["steps"] - before["steps"] <= STEPS, f"{before}, then {after}"
    assert len(socket.chunks("long")) < LONG / 2, f"{len(socket.chunks('long'))} chunks in spite of the cancel"
    assert socket.text("next") == known.demo.chat(QUESTION).text


async def check_p11_socket_errors(target: Target, known: Known) -> None:
    """A bad request on a socket is answered with its id and spoils nothing for the next one."""
    async with conversation(target.api, target.keys.acme) as socket:
        await socket.send("bad", ask(QUESTION, model="no-such-model"))
        await socket.receive_until_done("bad")
        await socket.send_text("this is not JSON")
        broken = await socket.receive()
        await socket.send("good", ask(QUESTION, max_tokens=40))
        await socket.receive_until_done("good")

    failure = socket.of("bad")[0]
    assert_error_body(str(failure), failure, code="model_not_found")
    assert_error_body(str(broken), broken)
    assert socket.text("good") == known.demo.chat(QUESTION).text
