"""A Hugging Face hub on loopback: the few endpoints that a download needs."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import msgspec

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by name: file contents by path. `requests` records (method, path); `gated` names need a token."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []
        self.gated: set[str] = set()
        self.token = "secret"
        self.broken_downloads = 0
        """Number of next downloads that break off in the middle."""
        self.url = ""

    @property
    def downloads(self) -> list[str]:
        return [path.rpartition("/")[2] for method, path in self.requests if method == "GET" and "/resolve/" in path]


@contextmanager
def serve(hub: Hub) -> Generator[Hub]:
    """Answer on a free port while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None: ...

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path):
            return self._send_json(found[1], {"id": found[1], "sha": COMMIT, "siblings": [], "private": False})
        if found := re.fullmatch(rf"/api/models/([^/]+/[^/]+)/tree/{COMMIT}/?", path):
            return self._send_json(found[1], self._tree(found[1]))
        if found := re.fullmatch(rf"/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path):
            return self._send_file(found[1], found[2], with_body=with_body)
        return self._send_error(404, "")

    def _tree(self, name: str) -> list[dict[str, object]]:
        files = self.hub.repositories.get(name, {})
        return [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files.items()
        ]

    def _send_json(self, name: str, value: object) -> None:
        if name not in self.hub.repositories:
            return self._send_error(401, "RepoNotFound")
        self._send(200, msgspec.json.encode(value), {"Content-Type": "application/json"})
        return None

    def _send_file(self, name: str, path: str, *, with_body: bool) -> None:
        content = self.hub.repositories.get(name, {}).get(path)
        if content is None:
            return self._send_error(404, "EntryNotFound")
        if name in self.hub.gated and self.headers["Authorization"] != f"Bearer {self.hub.token}":
            return self._send_error(403, "GatedRepo")
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if start else 200, content[start:], headers, with_body=with_body)
        return None

    def _send_error(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, with_body: bool = True) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        if self.hub.broken_downloads and "ETag" in headers:
            self.hub.broken_downloads -= 1
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)
