"""The WebSocket on `/v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.generation import ChatPrompt, GenerateRequest
from backends.testing.backend import Script
from gateway.api.websocket import MAX_RUNNING
from tests.gateway.api.asgi import Exchange, Socket
from tests.gateway.api.conftest import ServedApp, build, chat


def _content_of(request: GenerateRequest) -> str:
    assert isinstance(request.prompt, ChatPrompt)  # these tests send conversations only
    return request.prompt.messages[0].content


def _script(request: GenerateRequest) -> Script:
    """`slow` waits in the midst, everything else runs through."""
    return Script(pieces=("a", "b"), pause_before=1 if _content_of(request) == "slow" else None)


async def test_same_chunks_as_sse(served_app: ServedApp) -> None:
    """Frames are the chunks of SSE with `request_id` added, then one end frame."""
    fields = {"stream_options": {"include_usage": True}}
    exchange = Exchange(served_app.app, chat(stream=True, **fields))
    await exchange.start()
    events = (await exchange.rest()).decode().split("\n\n")[:-2]
    socket = await Socket(served_app.app).open()

    socket.send(chat(**fields) | {"request_id": "one"})
    *frames, end = await socket.frames_until("done", "one")

    assert {frame.pop("request_id") for frame in frames} == {"one"}
    assert [_comparable(frame) for frame in frames] == [
        _comparable(json.loads(event.removeprefix("data: "))) for event in events
    ]
    assert end == {"type": "done", "request_id": "one"}
    await socket.close()


def _comparable(chunk: dict[str, Any]) -> dict[str, Any]:  # Any: decoded JSON
    return {name: value for name, value in chunk.items() if name not in ("id", "created")}


async def test_whole_answer(served_app: ServedApp) -> None:
    """`stream: false` gives one body, then the end frame."""
    socket = await Socket(served_app.app).open()

    socket.send(chat(stream=False) | {"request_id": "w"})
    body, end = await socket.frames_until("done", "w")

    assert body["object"] == "chat.completion"
    assert body["request_id"] == "w"
    assert body["choices"][0]["message"]["content"] == "Hello world"
    assert end["type"] == "done"
    await socket.close()


async def test_requests_share_a_socket() -> None:
    """A quick request passes a slow one; each frame says whose it is."""
    served_app = build(_script)
    socket = await Socket(served_app.app).open()
    socket.send(chat("slow") | {"request_id": "1"})
    await served_app.backend.paused.wait()

    socket.send(chat("quick") | {"request_id": "2"})
    before = await socket.frames_until("done", "2")
    served_app.backend.resume()
    after = await socket.frames_until("done", "1")

    assert {"type": "done", "request_id": "1"} not in before
    assert {frame["request_id"] for frame in after} == {"1"}
    await socket.close()


async def test_cancel() -> None:
    """A cancelled request is released before the answer says so; the socket goes on."""
    served_app = build(_script)
    socket = await Socket(served_app.app).open()
    socket.send(chat("slow") | {"request_id": "1"})
    await served_app.backend.paused.wait()

    socket.send({"type": "cancel", "request_id": "1"})
    await socket.frames_until("cancelled", "1")

    assert served_app.backend.running == set()
    assert served_app.metric("hostelry_requests_total", outcome="cancelled") == 1
    socket.send(chat("quick") | {"request_id": "1"})
    await socket.frames_until("done", "1")
    await socket.close()


@pytest.mark.parametrize(
    ("frame", "request_id", "code"),
    [
        ("this is not JSON", None, "invalid_json"),
        ("[]", None, "invalid_json"),
        ("[" * 100_000, None, "invalid_json"),
        ({"type": "dance"}, None, None),
        ({"type": "cancel"}, None, None),
        ({"type": "cancel", "request_id": "nobody"}, "nobody", None),
        ({"request_id": ""}, None, None),
        ({"request_id": "x" * 129}, None, None),
        ({"request_id": "r", "model": "demo"}, "r", None),
        (chat(temperature=9) | {"request_id": "r"}, "r", None),
        (chat(tools=[{"type": "function"}]) | {"request_id": "r"}, "r", "unsupported_parameter"),
        (chat(model="nope") | {"request_id": "r"}, "r", "model_not_found"),
    ],
)
async def test_bad_frame(frame: object, request_id: str | None, code: str | None, served_app: ServedApp) -> None:
    """A bad frame gets the error object with its id, if one could be read, and affects no other request."""
    socket = await Socket(served_app.app).open()

    socket.send(frame)
    answer = await socket.frame()

    assert set(answer) == {"error", "request_id"}
    assert answer["request_id"] == request_id
    assert answer["error"]["code"] == code
    socket.send(chat() | {"request_id": "good"})
    await socket.frames_until("done", "good")
    await socket.close()


async def test_binary_frame(served_app: ServedApp) -> None:
    """Frames are text."""
    socket = await Socket(served_app.app).open()

    socket.say({"type": "websocket.receive", "bytes": b"{}"})

    assert (await socket.frame())["error"]["code"] == "invalid_json"
    await socket.close()


async def test_large_frame() -> None:
    """A frame has the same limit as a body."""
    socket = await Socket(build(max_body_bytes=1024).app).open()

    socket.send(chat("x" * 2000))

    assert (await socket.frame())["error"]["code"] == "request_too_large"
    await socket.close()


async def test_same_id_twice() -> None:
    """An id names one running request."""
    served_app = build(_script)
    socket = await Socket(served_app.app).open()
    socket.send(chat("slow") | {"request_id": "1"})
    await served_app.backend.paused.wait()
    for _ in range(2):
        await socket.frame()

    socket.send(chat("quick") | {"request_id": "1"})

    assert (await socket.frame())["error"]["param"] == "request_id"
    await socket.close()


async def test_too_many_at_once() -> None:
    """One socket runs 32 requests; the next one is told to wait."""
    served_app = build(Script(pause_before=-1))
    socket = await Socket(served_app.app).open()
    for number in range(MAX_RUNNING + 1):
        socket.send(chat() | {"request_id": str(number)})

    answer = await socket.frame()

    assert answer["request_id"] == str(MAX_RUNNING)
    assert "32" in answer["error"]["message"]
    await socket.close()
    assert served_app.backend.running == set()


async def test_failure_in_the_midst() -> None:
    """An error frame ends the request, without `done`."""
    served_app = build(Script(failure=("engine_failed", "the engine died")))
    socket = await Socket(served_app.app).open()

    socket.send(chat() | {"request_id": "f"})
    frames = [await socket.frame() for _ in range(4)]

    assert frames[-1] == {
        "error": {"message": "the engine died", "type": "server_error", "param": None, "code": "engine_failed"},
        "request_id": "f",
    }
    assert await socket.close() == []


async def test_a_deadline_passes() -> None:
    """An error frame ends the request; the socket serves the next one."""
    served_app = build(Script(pieces=("a", "b"), pause_before=1))
    socket = await Socket(served_app.app).open()

    socket.send(chat(deadline_s=0.1) | {"request_id": "d"})
    while "error" not in (frame := await socket.frame()):
        pass

    assert (frame["error"]["code"], frame["request_id"]) == ("deadline_exceeded", "d")
    served_app.backend.resume()
    socket.send(chat() | {"request_id": "next"})
    assert await socket.frames_until("done", "next")
    assert await socket.close() == []


async def test_missing_id_is_made(served_app: ServedApp) -> None:
    """A request without an id gets one, on every frame."""
    socket = await Socket(served_app.app).open()

    socket.send(chat())
    first = await socket.frame()

    assert first["request_id"]
    await socket.frames_until("done", first["request_id"])
    await socket.close()


async def test_leaving_cancels_everything() -> None:
    """Closing the socket ends its requests."""
    served_app = build(_script)
    socket = await Socket(served_app.app).open()
    for number in range(3):
        socket.send(chat("slow") | {"request_id": str(number)})
    await served_app.backend.paused.wait()

    await socket.close()

    assert served_app.backend.running == set()
    assert served_app.services.drain.num_open == 0
    assert served_app.metric("hostelry_requests_in_flight") == 0


@pytest.mark.parametrize("key", [None, "sk-acme-wrong", "sk-closed-0123456789"])
@pytest.mark.parametrize("denial", [True, False])
async def test_no_key_no_socket(key: str | None, denial: bool, served_app: ServedApp) -> None:
    """The handshake is denied before it is accepted, with the error object where the server can send one."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    socket = Socket(served_app.app, headers=headers, denial=denial)

    message, *rest = await socket.end()

    if denial:
        assert message["type"] == "websocket.http.response.start"
        assert message["status"] in (401, 403)
        assert "error" in json.loads(rest[0]["body"])
    else:
        assert message["type"] == "websocket.close"


async def test_no_socket_elsewhere(served_app: ServedApp) -> None:
    """Other paths deny a WebSocket."""
    socket = Socket(served_app.app)
    socket.task.cancel()
    from tests.gateway.api.asgi import Connection, scope_of

    scope = scope_of("/v1/completions", type="websocket", extensions={"websocket.http.response": {}})
    connection = Connection(served_app.app, scope)
    connection.say({"type": "websocket.connect"})

    message, *_ = await connection.end()

    assert message["status"] == 404


async def test_drain_closes_the_socket() -> None:
    """Draining lets running requests finish, refuses new ones, then closes the socket."""
    served_app = build(_script)
    socket = await Socket(served_app.app).open()
    socket.send(chat("slow") | {"request_id": "1"})
    await served_app.backend.paused.wait()
    for _ in range(2):
        await socket.frame()

    served_app.services.drain.close()
    socket.send(chat("quick") | {"request_id": "2"})
    refused = await socket.frame()
    served_app.backend.resume()
    await socket.frames_until("done", "1")
    (closed,) = await socket.end()

    assert refused["error"]["code"] == "server_shutdown"
    assert (closed["type"], closed["code"]) == ("websocket.close", 1001)
