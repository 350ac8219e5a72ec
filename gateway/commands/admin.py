"""Shared by the operators' commands: a client of `/admin/v1`, its options, and tables."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import click
import httpx
import msgspec
from rich.table import Table

from gateway.process.data_dir import ADMIN_KEY, default_data_dir, stored_key
from gateway.process.terminal import console

Json = dict[str, Any]  # Any: JSON of the server
_TIMEOUT_S = 30


class AdminClient:
    """Client of a running server; an error response ends the command."""

    def __init__(self, url: str, key: str | None, *, as_json: bool) -> None:
        self._url = f"{url.rstrip('/')}/admin/v1"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.as_json = as_json

    def call(self, method: str, path: str, body: object = None, **query: str | float | None) -> Json:
        """Send a request. Raises `click.ClickException` with the server's own message."""
        parameters = {name: value for name, value in query.items() if value is not None}
        try:
            response = httpx.request(
                method,
                self._url + path,
                content=None if body is None else msgspec.json.encode(body),
                params=httpx.QueryParams(parameters),
                headers=self._headers | ({} if body is None else {"Content-Type": "application/json"}),
                timeout=_TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            raise click.ClickException(f"no answer from {self._url}: {error}; is `hostelry serve` running?") from None
        answer = _decoded(response)
        if response.status_code >= 400:
            message = answer.get("error", {}).get("message") or response.text[:300]
            raise click.ClickException(f"{message} ({response.status_code})")
        return answer

    def all(self, path: str, *, cursor: str = "id", **query: str | float | None) -> Iterator[Json]:
        """Yield every entry of a list, page by page."""
        after: str | None = None
        while True:
            page = self.call("GET", path, after=after, limit=1000, **query)
            yield from page["data"]
            if not page["has_more"]:
                return
            after = page["data"][-1][cursor]

    def show(self, entry: Json) -> None:
        """Print one entry: JSON, or a line a field."""
        if self.as_json:
            click.echo(msgspec.json.encode(entry))
            return
        for name, value in entry.items():
            if name != "object" and value not in (None, [], {}):
                click.echo(f"{name}: {_text(value)}")

    def show_all(self, entries: Iterator[Json], columns: Sequence[str]) -> None:
        """Print a list: JSON lines, or a table of some columns."""
        if self.as_json:
            for entry in entries:
                click.echo(msgspec.json.encode(entry))
            return
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column)
        for entry in entries:
            table.add_row(*(_text(entry.get(column)) for column in columns))
        console.print(table)


def admin_options(function: Callable[..., None]) -> Callable[..., None]:
    """Decorator with the options of every command for operators; the command gets a client as its first argument."""

    @click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Server to connect to.")
    @click.option(
        "--admin-key", default=None, help="Default: HOSTELRY_ADMIN_KEY, or the key that the first start stored."
    )
    @click.option(
        "--data-dir", type=click.Path(path_type=Path), default=None, help="Data directory that holds the stored key."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @wraps(function)
    def wrapped(url: str, admin_key: str | None, data_dir: Path | None, as_json: bool, **rest: object) -> None:
        function(AdminClient(url, stored_admin_key(admin_key, data_dir), as_json=as_json), **rest)

    return wrapped


def fields_of(settings: Sequence[str]) -> Json:
    """Parse `limits.tokens_per_minute=1000` to nested fields. Values are JSON, or else a plain text."""
    fields: Json = {}
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path:
            raise click.UsageError(f"--set {setting}: write FIELD=VALUE, such as limits.requests_per_minute=60")
        inner = fields
        *parents, last = path.split(".")
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = _value(value)
    return fields


def _value(text: str) -> object:
    try:
        value: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
    return value


def stored_admin_key(given: str | None, data_dir: Path | None) -> str | None:
    """Key that was given, that of the environment, or the one that a start on this machine stored."""
    return given or os.environ.get("HOSTELRY_ADMIN_KEY") or stored_key(data_dir or default_data_dir(), ADMIN_KEY)


def _decoded(response: httpx.Response) -> Json:
    try:
        return msgspec.json.decode(response.content, type=Json)
    except msgspec.DecodeError:
        return {}


def _text(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, (dict, list)):
        return msgspec.json.encode(value).decode()
    return str(value)
