"""An upstream that costs next to nothing: one core, one prepared response to every POST, in the form of OpenAI's API.

python -m benchmarks.stub          (prints `ready http://127.0.0.1:PORT` and serves until it is ended)
"""

from __future__ import annotations

import asyncio
from typing import cast

import msgspec
import uvloop

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_ANSWER = msgspec.json.encode(
    {
        "id": "chatcmpl-stub",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "stub",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "sea", "refusal": None},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 13},
    }
)


class Stub(asyncio.Protocol):
    """One connection; requests with a `Content-Length`, any number one after the other."""

    def __init__(self) -> None:
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        while size := _size_of_first(self._received):
            self._received = self._received[size:]
            self._transport.write(_REPLY)


def _size_of_first(received: bytes) -> int:
    """Bytes of the first request; 0 while it is not whole."""
    end = received.find(_HEAD_END)
    if end < 0:
        return 0
    head = received[: end + 2].lower()
    at = head.find(_LENGTH)
    length = int(head[at + len(_LENGTH) : head.index(b"\r\n", at + 2)]) if at >= 0 else 0
    size = end + len(_HEAD_END) + length
    return size if len(received) >= size else 0


_REPLY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(_ANSWER), _ANSWER)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Stub, "127.0.0.1", 0, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    print(f"ready http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
