"""Every request gets exactly one end, whatever happens to engines."""

from __future__ import annotations

from gateway.batching.messages import Add, Failure, Output
from gateway.engine.client_side.open_requests import OpenRequests
from gateway.engine.messages import Abort, ToEngine
from tests.gateway.engine.making import make_add, read_to_end, tokens_of


def make_ledger() -> OpenRequests:
    return OpenRequests(now=lambda: 0.0)


async def test_outputs_reach_their_own_request() -> None:
    """Two requests, one message: each sees its own tokens."""
    ledger, sent = make_ledger(), list[ToEngine]()
    ledger.engine_is_up(sent.append)
    first, second = ledger.submit(make_add()), ledger.submit(make_add())
    ledger.deliver((Output(first.add.id, (5,)), Output(second.add.id, (6,), finish_reason="length")))
    ledger.deliver((Output(first.add.id, (7,), finish_reason="length"),))

    assert tokens_of(await read_to_end(first)) == [5, 7]
    assert tokens_of(await read_to_end(second)) == [6]
    assert ledger.num_open == 0


async def test_unstarted_request_is_replayed_once() -> None:
    """The same `Add` goes to the next engine; when that dies as well, the request fails."""
    ledger, first, second = make_ledger(), list[ToEngine](), list[ToEngine]()
    ledger.engine_is_up(first.append)
    stream = ledger.submit(make_add())
    ledger.engine_is_down(Failure("engine_failed", "one"))
    ledger.engine_is_up(second.append)

    ledger.engine_is_down(Failure("engine_failed", "two"))

    assert first == second == [stream.add]
    assert [output.error for output in await read_to_end(stream)] == [Failure("engine_failed", "two")]
    assert ledger.num_open == 0


async def test_request_that_has_shown_something_fails_at_once() -> None:
    """A replay would say it again, or something else."""
    ledger = make_ledger()
    ledger.engine_is_up(lambda _: None)
    stream = ledger.submit(make_add())
    ledger.deliver((Output(stream.add.id, (5,)),))

    ledger.engine_is_down(Failure("engine_failed", "dead"))

    assert [output.error for output in await read_to_end(stream)] == [None, Failure("engine_failed", "dead")]


async def test_request_that_was_never_sent_keeps_its_replay() -> None:
    """Waiting for an engine is not a try."""
    ledger, sent = make_ledger(), list[ToEngine]()
    stream = ledger.submit(make_add())
    ledger.engine_is_down(Failure("engine_failed", "dead while loading"))
    ledger.engine_is_up(sent.append)

    ledger.engine_is_down(Failure("engine_failed", "dead"))

    assert sent == [stream.add]
    assert ledger.num_open == 1


async def test_closing_tells_the_engine_once() -> None:
    """An open request is aborted; one that ended, or was closed, is left alone."""
    ledger, sent = make_ledger(), list[ToEngine]()
    ledger.engine_is_up(sent.append)
    stream, ended = ledger.submit(make_add()), ledger.submit(make_add())
    ledger.deliver((Output(ended.add.id, (1,), finish_reason="length"),))

    for _ in range(2):
        stream.close()
        ended.close()

    assert [message for message in sent if not isinstance(message, Add)] == [Abort(stream.add.id)]
    ledger.deliver((Output(stream.add.id, (1,)),))
    assert ledger.num_open == 0


async def test_a_request_expires_once() -> None:
    """The engine is told to forget it and its consumer why; one that has ended does not expire."""
    ledger, sent = make_ledger(), list[ToEngine]()
    ledger.engine_is_up(sent.append)
    late, ended = ledger.submit(make_add()), ledger.submit(make_add())
    ledger.deliver((Output(ended.add.id, (1,), finish_reason="length"),))

    for _ in range(2):
        late.expire()
        ended.expire()
    late.close()

    (output,) = await late.get()
    assert output.error is not None
    assert output.error.code == "deadline_exceeded"
    assert [message for message in sent if not isinstance(message, Add)] == [Abort(late.add.id)]
    assert [each.finish_reason for each in await ended.get()] == ["length"]


async def test_silence_counts_only_while_something_is_owed() -> None:
    """An idle engine may be silent for ever."""
    now_s = 0.0
    ledger = OpenRequests(now=lambda: now_s)
    ledger.engine_is_up(lambda _: None)
    now_s = 100.0

    assert ledger.silent_s == 0.0
    ledger.submit(make_add())
    now_s = 103.0
    assert ledger.silent_s == 3.0
    ledger.note_sign_of_life()
    assert ledger.silent_s == 0.0


async def test_nobody_waits_for_an_engine_that_will_not_come() -> None:
    """A request that comes after the end gets its one last output at once."""
    ledger = make_ledger()
    ledger.fail_all(Failure("server_shutdown", "closed"))

    stream = ledger.submit(make_add())

    (output,) = await stream.get()
    assert output.error == Failure("server_shutdown", "closed")
    assert ledger.num_open == 0
