"""The engine's side of the socket, without a process around it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from backends.testing.fake import FakeFaults
from gateway.batching.messages import Add, EngineStats, Output
from gateway.engine.messages import (
    Abort,
    Died,
    FrameBuffer,
    FromEngine,
    LoadFailed,
    Progress,
    Ready,
    Stepped,
    Stop,
    ToEngine,
    encode_frame,
)
from gateway.engine.worker_side.worker import EXIT_DIED, EXIT_LOAD_FAILED, EXIT_OK, serve
from tests.gateway.engine.making import FOREVER, PATIENCE_S, faulty, make_add, make_load


class Gateway:
    """The other end, blocking."""

    def __init__(self, faults: FakeFaults) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(PATIENCE_S)
        self._frames = FrameBuffer()
        self._arrived: list[FromEngine] = []
        self.status: int | None = None
        self._thread = threading.Thread(target=self._serve, args=(theirs, faults))
        self._thread.start()

    def send(self, *messages: ToEngine) -> None:
        self._socket.sendall(b"".join(map(encode_frame, messages)))

    def receive(self) -> FromEngine | None:
        while not self._arrived:
            data = self._socket.recv(65536)
            if not data:
                return None
            self._arrived += [msgspec.msgpack.decode(body, type=FromEngine) for body in self._frames.feed(data)]
        return self._arrived.pop(0)

    def receive_until(self, kind: type[FromEngine]) -> FromEngine:
        while not isinstance(message := self.receive(), kind):
            assert message is not None, f"the engine ended without {kind.__name__}"
        return message

    def stepped(self) -> Stepped:
        message = self.receive_until(Stepped)
        assert isinstance(message, Stepped)
        return message

    def end(self) -> int | None:
        self._socket.close()
        self._thread.join(PATIENCE_S)
        return self.status

    def _serve(self, theirs: socket.socket, faults: FakeFaults) -> None:
        self.status = serve(theirs, create_runner=faulty(faults))


@pytest.fixture
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    gateway = Gateway(getattr(request, "param", FakeFaults()))
    yield gateway
    gateway.end()


def add(number: int, *, max_tokens: int = 3) -> Add:
    return msgspec.structs.replace(make_add(max_tokens=max_tokens), id=number)


def test_load_then_steps_then_idle(gateway: Gateway, model_path: Path) -> None:
    """Progress, Ready with the model's facts, one Stepped a step, and the end by `length`."""
    gateway.send(make_load(model_path))
    assert isinstance(gateway.receive(), Progress)
    ready = gateway.receive_until(Ready)
    assert isinstance(ready, Ready)
    assert (ready.vocab_size, ready.max_sequences, ready.eos_token_ids) == (300, 4, (299, 297))

    gateway.send(add(1))
    steps = [gateway.receive_until(Stepped) for _ in range(3)]

    reasons = [output.finish_reason for step in steps if isinstance(step, Stepped) for output in step.outputs]
    assert reasons == [None, None, "length"]
    gateway.send(Stop())
    assert gateway.receive() is None
    assert gateway.end() == EXIT_OK


LONG = 6400
"""Tokens of a prompt that takes a hundred steps."""
STAGES: dict[str, Callable[[EngineStats], bool]] = {
    "queued": lambda stats: stats.waiting == 1,
    "prefill": lambda stats: stats.running == 1 and 0 < stats.prefill_tokens < LONG,
    "decode": lambda stats: stats.running == 1 and stats.generated_tokens > 2,
}


@pytest.mark.parametrize("gateway", [FakeFaults(delay_s=0.1)], indirect=True)
@pytest.mark.parametrize("stage", STAGES)
def test_abort_frees_within_one_step(gateway: Gateway, model_path: Path, stage: str) -> None:
    """Queued, amid its prompt or amid its answer: after the step that runs nothing of it is left."""
    gateway.send(make_load(model_path, max_batch=1))
    prompt = (1,) * LONG if stage == "prefill" else (1, 2, 3)
    before = (add(1, max_tokens=FOREVER),) if stage == "queued" else ()
    gateway.send(*before, msgspec.structs.replace(make_add(prompt=prompt, max_tokens=FOREVER), id=2))
    while not STAGES[stage](seen := gateway.stepped().stats):
        pass

    gateway.send(Abort(2))
    while (message := gateway.stepped()).stats.waiting or message.stats.running > len(before):
        pass

    # The one that ran when the message came, and the one whose numbers were read last.
    assert message.stats.steps <= seen.steps + 2
    assert not [output for output in message.outputs if output.id == 2]
    assert message.stats.kv_tokens == 0 or before


@pytest.mark.parametrize("gateway", [FakeFaults(delay_s=0.05)], indirect=True)
def test_first_output_tells_how_long_it_waited(gateway: Gateway, model_path: Path) -> None:
    """One place: the second of two waits for the first, and says so once."""
    gateway.send(make_load(model_path, max_batch=1), add(1, max_tokens=3), add(2, max_tokens=3))
    outputs: list[Output] = []
    while len(outputs) < 6:
        outputs += gateway.stepped().outputs

    queued = {number: [output.queued_s for output in outputs if output.id == number] for number in (1, 2)}
    assert queued[1][0] < 0.05
    assert queued[2][0] >= 0.15
    assert queued[1][1:] == queued[2][1:] == [0.0, 0.0]


def test_abort_while_running_is_seen_in_the_gauges(gateway: Gateway, model_path: Path) -> None:
    """One step after the abort nothing runs, and no output comes."""
    gateway.send(make_load(model_path), add(1, max_tokens=FOREVER))
    gateway.receive_until(Stepped)

    gateway.send(Abort(1))

    while True:
        message = gateway.receive_until(Stepped)
        assert isinstance(message, Stepped)
        if message.stats.running == 0:
            break
    assert message.outputs == ()


def test_end_of_the_gateway_is_the_end(gateway: Gateway, model_path: Path) -> None:
    """A closed socket ends the engine in the middle of its work, with status 0."""
    gateway.send(make_load(model_path), add(1, max_tokens=FOREVER))
    gateway.receive_until(Stepped)

    assert gateway.end() == EXIT_OK


@pytest.mark.parametrize("gateway", [FakeFaults(fatal_at=(3,))], indirect=True)
def test_fatal_fault_is_told_and_ends_the_engine(gateway: Gateway, model_path: Path) -> None:
    """`Died` with the runner's words, then a status that is not zero."""
    gateway.send(make_load(model_path), add(1, max_tokens=FOREVER))

    died = gateway.receive_until(Died)

    assert died == Died("ordered for step 3")
    assert gateway.receive() is None
    assert gateway.end() == EXIT_DIED


@pytest.mark.parametrize("gateway", [FakeFaults(load_failure="tensor x\nhas the wrong shape")], indirect=True)
def test_refused_model_is_told_in_one_line(gateway: Gateway, model_path: Path) -> None:
    """The operator reads the runner's words, without a traceback."""
    gateway.send(make_load(model_path))

    failed = gateway.receive_until(LoadFailed)

    assert failed == LoadFailed("tensor x has the wrong shape")
    assert gateway.end() == EXIT_LOAD_FAILED


def test_missing_model_is_told(gateway: Gateway, tmp_path: Path) -> None:
    """The message names the path."""
    gateway.send(make_load(tmp_path / "nothing"))

    failed = gateway.receive_until(LoadFailed)

    assert isinstance(failed, LoadFailed)
    assert str(tmp_path / "nothing") in failed.message


def test_impossible_sequence_is_answered(gateway: Gateway, model_path: Path) -> None:
    """A request that cannot be served ends in an output with an error, and the engine goes on."""
    gateway.send(make_load(model_path), add(1, max_tokens=10_000_000), add(2, max_tokens=1))

    outputs: list[Output] = []
    while len(outputs) < 2:
        message = gateway.receive_until(Stepped)
        assert isinstance(message, Stepped)
        outputs += message.outputs

    errors = {output.id: output.error for output in outputs}
    assert errors[1] is not None
    assert errors[1].code == "invalid_request"
    assert errors[2] is None


def test_context_is_cut_to_what_memory_holds(gateway: Gateway, model_path: Path) -> None:
    """The default context lets all sequences fit into KV memory together; a note states the context given."""
    load = make_load(model_path)
    load = msgspec.structs.replace(load, engine=msgspec.structs.replace(load.engine, kv_cache_mb=64))
    gateway.send(load)

    ready = gateway.receive_until(Ready)

    assert isinstance(ready, Ready)
    assert ready.max_sequences == 4
    # 1 layer, 1 KV head of 16, keys and values, 4 bytes: 128 bytes a token of the spec. 4 run, 2 keep prefixes.
    assert ready.max_context == 64 * 1024 * 1024 // (6 * 128)
    assert any("context is 87381 of the model's 1000000 tokens" in note for note in ready.notes)
