"""Speaks ASGI to the application by hand: what the client sends and when, and every message that comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

KEY = "sk-acme-0123456789"
Message = dict[str, Any]  # Any: an ASGI message
App = Callable[[Any, Any, Any], Awaitable[None]]
_LIMIT_S = 60.0


def scope_of(path: str, *, method: str = "POST", headers: dict[str, str] | None = None, **extra: object) -> Message:
    given = {"authorization": f"Bearer {KEY}"} if headers is None else headers
    encoded = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.items()]
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": encoded,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        **extra,
    }


class Connection:
    """One running call of the application. `say` feeds it, `hear` waits for its next message."""

    def __init__(self, app: App, scope: Message) -> None:
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._from_app: asyncio.Queue[Message] = asyncio.Queue()
        self.held = asyncio.Event()
        """Cleared by a test to play a reader that takes nothing."""
        self.held.set()
        self.blocked = asyncio.Event()
        """Set once the application waits for such a reader."""
        self.task = asyncio.ensure_future(app(scope, self._to_app.get, self._sent))

    async def _sent(self, message: Message) -> None:
        if not self.held.is_set():
            self.blocked.set()
        await self.held.wait()
        self._from_app.put_nowait(message)

    def say(self, message: Message) -> None:
        self._to_app.put_nowait(message)

    async def hear(self) -> Message:
        async with asyncio.timeout(_LIMIT_S):
            return await self._from_app.get()

    async def end(self) -> list[Message]:
        """Wait for the application to return, and give what was not heard yet."""
        async with asyncio.timeout(_LIMIT_S):
            await self.task
        return [self._from_app.get_nowait() for _ in range(self._from_app.qsize())]


class Exchange(Connection):
    """A POST of a JSON body."""

    def __init__(self, app: App, body: object, *, path: str = "/v1/chat/completions", **scope: Any) -> None:
        super().__init__(app, scope_of(path, **scope))
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.say({"type": "http.request", "body": raw, "more_body": False})

    async def start(self) -> tuple[int, dict[str, str]]:
        message = await self.hear()
        assert message["type"] == "http.response.start", message
        return message["status"], {name.decode(): value.decode() for name, value in message["headers"]}

    async def piece(self) -> bytes:
        message = await self.hear()
        assert message["type"] == "http.response.body", message
        body: bytes = message["body"]
        return body

    async def rest(self) -> bytes:
        return b"".join(message.get("body", b"") for message in await self.end())

    def hang_up(self) -> None:
        self.say({"type": "http.disconnect"})


class Socket(Connection):
    """A WebSocket on the chat path."""

    def __init__(self, app: App, *, headers: dict[str, str] | None = None, denial: bool = True) -> None:
        extensions: dict[str, dict[str, str]] = {"websocket.http.response": {}} if denial else {}
        scope = scope_of("/v1/chat/completions", headers=headers, type="websocket", extensions=extensions)
        del scope["method"]
        super().__init__(app, scope)
        self.say({"type": "websocket.connect"})

    async def open(self) -> Socket:
        message = await self.hear()
        assert message["type"] == "websocket.accept", message
        return self

    def send(self, frame: object) -> None:
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self.say({"type": "websocket.receive", "text": text})

    async def frame(self) -> Any:  # Any: decoded JSON
        message = await self.hear()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])

    async def frames_until(self, kind: str, request_id: str) -> list[Any]:
        """Frames up to the end frame of that kind, included."""
        frames = [await self.frame()]
        while frames[-1] != {"type": kind, "request_id": request_id}:
            frames.append(await self.frame())
        return frames

    async def close(self) -> list[Message]:
        self.say({"type": "websocket.disconnect", "code": 1000})
        return await self.end()
