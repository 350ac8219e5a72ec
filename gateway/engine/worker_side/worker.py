"""The engine process: `python -m gateway.engine.worker_side.worker --fd N`. Ends with its parent."""

from __future__ import annotations

import argparse
import ctypes
import logging
import signal
import socket
import sys
from typing import NoReturn

import msgspec

from backends.errors import BackendError, Fatal
from gateway.batching.loop import Loop
from gateway.batching.messages import Add, Output
from gateway.engine.messages import (
    Abort,
    Died,
    FrameBuffer,
    FromEngine,
    Load,
    LoadFailed,
    Stepped,
    Stop,
    ToEngine,
    encode_frame,
)
from gateway.engine.worker_side.loading import LoadedEngine, RunnerFactory, load_engine
from gateway.process.gc_tuning import freeze_objects

_READ_BYTES = 64 * 1024
"""Below 128 KiB, from which on glibc's malloc maps and unmaps memory for every single read."""


class GatewayGone(Exception):
    """Raised when the other end is closed."""


class Channel:
    """Messages over a connected stream socket, which it owns."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(True)
        self._connection = connection
        self._frames = FrameBuffer()
        self._decoder = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine) -> None:
        """Block while the gateway does not read: it must not fall behind without bound. Raises `GatewayGone`."""
        try:
            self._connection.sendall(encode_frame(message))
        except OSError as error:
            raise GatewayGone from error

    def wait(self) -> list[ToEngine]:
        """Block until something arrives; may be empty when only half a message did. Raises `GatewayGone`."""
        try:
            return self._messages(self._connection.recv(_READ_BYTES))
        except OSError as error:
            raise GatewayGone from error

    def drain(self) -> list[ToEngine]:
        """All messages that have arrived by now, without blocking. Raises `GatewayGone`."""
        messages: list[ToEngine] = []
        while True:
            try:
                messages += self._messages(self._connection.recv(_READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return messages
            except OSError as error:
                raise GatewayGone from error

    def close(self) -> None:
        self._connection.close()

    def _messages(self, data: bytes) -> list[ToEngine]:
        if not data:
            raise GatewayGone
        return [self._decoder.decode(body) for body in self._frames.feed(data)]


_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere the end of the socket must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


EXIT_OK, EXIT_DIED, EXIT_LOAD_FAILED = 0, 1, 2

_log = logging.getLogger("gateway.engine.worker_side.worker")


class _Stopped(Exception):
    """Raised on the gateway's `Stop` message."""


def main(arguments: list[str]) -> int:
    """Serve one gateway until it stops, disappears, or the runner fails. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="hostelry-engine", description="Started by the gateway, not by hand.")
    parser.add_argument("--fd", type=int, required=True, help="inherited end of a socket pair")
    descriptor: int = parser.parse_args(arguments).fd
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    # Ctrl-C and a service manager's SIGTERM reach the whole process group, but the gateway still has to finish its
    # running requests. Only the socket decides when to exit.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    from backends.registry import create_runner

    return serve(socket.socket(fileno=descriptor), create_runner=create_runner)


def serve(connection: socket.socket, *, create_runner: RunnerFactory) -> int:
    """Load the model of the first message, then step until stopped. Owns and closes `connection`."""
    channel = Channel(connection)
    try:
        return _serve(channel, create_runner)
    except (GatewayGone, _Stopped):
        return EXIT_OK
    finally:
        channel.close()


def _serve(channel: Channel, create_runner: RunnerFactory) -> int:
    load, *early = _first_messages(channel)
    engine = _load(channel, load, create_runner)
    if engine is None:
        return EXIT_LOAD_FAILED
    try:
        _run(channel, engine.loop, early)
    except (GatewayGone, _Stopped):
        raise
    except Exception as error:  # process edge: report to the gateway whatever a runner raises
        _log.exception("the engine dies")
        channel.send(Died(_one_line(error)))
        return EXIT_DIED
    finally:
        engine.runner.close()


def _first_messages(channel: Channel) -> list[ToEngine]:
    messages: list[ToEngine] = []
    while not messages:
        messages = channel.wait()
    return messages


def _load(channel: Channel, load: ToEngine, create_runner: RunnerFactory) -> LoadedEngine | None:
    try:
        if not isinstance(load, Load):
            raise Fatal(f"the first message must be load, not {type(load).__name__}")
        from backends.loading import open_model

        engine = load_engine(load, create_runner=create_runner, open_model=open_model, progress=channel.send)
    except GatewayGone:
        raise
    except BackendError as error:
        channel.send(LoadFailed(_one_line(error)))
        return None
    except Exception as error:  # process edge: a library's own error must reach the operator, too
        _log.exception("the model could not be loaded")
        channel.send(LoadFailed(f"{type(error).__name__}: {_one_line(error)}"))
        return None
    freeze_objects()
    channel.send(engine.ready)
    return engine


def _run(channel: Channel, loop: Loop, early: list[ToEngine]) -> NoReturn:
    messages = early
    while True:
        outputs = _apply(messages, loop)
        if loop.has_work:
            outputs += loop.step()
        if messages or outputs or loop.has_work:
            channel.send(Stepped(tuple(outputs), loop.stats()))
        messages = channel.drain() if loop.has_work else channel.wait()


def _apply(messages: list[ToEngine], loop: Loop) -> list[Output]:
    """Pass messages to the loop in order; returns rejections. Raises `_Stopped`."""
    outputs: list[Output] = []
    for message in messages:
        match message:
            case Add():
                refusal = loop.add(message)
                outputs += [] if refusal is None else [refusal]
            case Abort():
                loop.abort(message.id)
            case Stop():
                raise _Stopped
            case Load():
                raise Fatal("a second load message arrived; one engine loads one model")
    return outputs


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
