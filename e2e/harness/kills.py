"""A gateway killed again and again under load, and its usage records compared with the clients' responses."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import openai

from e2e.harness.server import Server, ServerFailed
from gateway.commands.admin import AdminClient

KEY = "sk-ho-kills-0123456789"
ADMIN_KEY = "sk-ho-kills-admin-0123456789"
MODEL = "hostelry-demo"
_MESSAGES: Any = [{"role": "user", "content": "capital of Peru"}]
_STARTING_S = 2.0


class Tokens(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of one answer or of many."""

    prompt: int = 0
    completion: int = 0

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(prompt=self.prompt + other.prompt, completion=self.completion + other.completion)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Number and times of the kills. `starts_killed` are killed at a random moment before they can answer."""

    kills: int
    clients: int = 4
    starts_killed: int = 0
    under_load_s: tuple[float, float] = (0.2, 1.2)
    arguments: tuple[str, ...] = ()


class Books(msgspec.Struct, frozen=True, kw_only=True):
    """Recorded usage: the rows, each with its id, and the number and sum of all by the hour."""

    rows: tuple[tuple[str, Tokens], ...]
    num_summed: int
    summed: Tokens


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """Usage records compared with responses. `unseen` were recorded, but their last byte did not arrive."""

    answered: int
    rows: int
    lost: int
    doubled: int
    differing: int
    """Rows whose tokens are not those that the client was told."""
    unseen: int
    seen_tokens: Tokens
    unseen_tokens: Tokens
    row_tokens: Tokens
    summed_tokens: Tokens

    @property
    def is_exact(self) -> bool:
        told = self.seen_tokens + self.unseen_tokens
        return not (self.lost or self.doubled or self.differing) and told == self.row_tokens == self.summed_tokens


def kill_under_load(plan: Plan, data_dir: Path, draw: random.Random, tell: Callable[[int], None]) -> dict[str, Tokens]:
    """Every answer that arrived whole, by its id. `tell` hears the number of each kill."""
    seen: dict[str, Tokens] = {}
    early = set(draw.sample(range(plan.kills), plan.starts_killed))
    for number in range(plan.kills):
        if number in early:
            _kill_while_starting(plan, data_dir, after_s=draw.uniform(0, _STARTING_S))
        _kill_while_answering(plan, data_dir, seen, after_s=draw.uniform(*plan.under_load_s))
        tell(number + 1)
    return seen


def read_books(plan: Plan, data_dir: Path) -> Books:
    """Usage read from one more server, which finds what the killed ones left behind."""
    server = _server(plan, data_dir)
    try:
        client = AdminClient(server.wait_ready(), ADMIN_KEY, as_json=True)
        rows = tuple((row["id"], _tokens(row)) for row in client.all("/usage/requests"))
        (total,) = client.call("GET", "/usage")["data"]
        return Books(rows=rows, num_summed=total["requests"], summed=_tokens(total))
    finally:
        server.stop()


def audit(seen: dict[str, Tokens], books: Books) -> Audit:
    """A row counts as doubled if its id is there twice, or if sums count it twice."""
    written = dict(books.rows)
    times = Counter(key for key, _ in books.rows)
    return Audit(
        answered=len(seen),
        rows=len(books.rows),
        lost=sum(key not in written for key in seen),
        doubled=sum(count - 1 for count in times.values()) + abs(books.num_summed - len(books.rows)),
        differing=sum(written.get(key, tokens) != tokens for key, tokens in seen.items()),
        unseen=sum(key not in seen for key in written),
        seen_tokens=_sum(seen.values()),
        unseen_tokens=_sum(tokens for key, tokens in books.rows if key not in seen),
        row_tokens=_sum(tokens for _, tokens in books.rows),
        summed_tokens=books.summed,
    )


def _server(plan: Plan, data_dir: Path) -> Server:
    keys = ["--api-key", KEY, "--admin-key", ADMIN_KEY]
    return Server(["--port", "0", "--data-dir", str(data_dir), *keys, *plan.arguments])


def _kill_while_starting(plan: Plan, data_dir: Path, *, after_s: float) -> None:
    server = _server(plan, data_dir)
    time.sleep(after_s)
    server.process.send_signal(signal.SIGKILL)
    server.stop()


def _kill_while_answering(plan: Plan, data_dir: Path, seen: dict[str, Tokens], *, after_s: float) -> None:
    server = _server(plan, data_dir)
    url = server.wait_ready()
    with ThreadPoolExecutor(plan.clients) as pool:
        clients = [pool.submit(_ask_until_gone, url, seen, streams=number % 2 == 1) for number in range(plan.clients)]
        time.sleep(after_s)
        if server.process.poll() is not None:
            raise ServerFailed(f"ended by itself\n{server.log()}")
        server.process.send_signal(signal.SIGKILL)
        for client in clients:
            client.result(30)
    server.stop()


def _ask_until_gone(url: str, seen: dict[str, Tokens], *, streams: bool) -> None:
    """Half of the clients stream. An answer counts once its last byte was read."""
    ask = _streamed if streams else _whole
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        while True:
            try:
                key, tokens = ask(client)
            except (openai.APIConnectionError, httpx2.TransportError):
                return
            assert key not in seen, "two answers have one id"
            seen[key] = tokens


def _whole(client: openai.OpenAI) -> tuple[str, Tokens]:
    answer = client.chat.completions.create(model=MODEL, messages=_MESSAGES, max_tokens=8)
    assert answer.usage is not None
    return answer.id, _tokens(answer.usage.model_dump())


def _streamed(client: openai.OpenAI) -> tuple[str, Tokens]:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(
        model=MODEL, messages=_MESSAGES, max_tokens=8, stream=True, stream_options=options
    )
    *_, last = stream
    assert last.usage is not None
    return last.id, _tokens(last.usage.model_dump())


def _tokens(entry: dict[str, Any]) -> Tokens:
    return Tokens(prompt=entry["prompt_tokens"], completion=entry["completion_tokens"])


def _sum(many: Iterable[Tokens]) -> Tokens:
    return sum(many, start=Tokens())
