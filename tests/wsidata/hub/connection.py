"""HTTP connection of the test server, with bodies, answers, a log of requests, and injected failures.

Failures are ordered through /_control/fail: an answer with a status, or a connection that is dropped, for the next so
many requests whose method and path fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from repositories import Hub, RefusedError

BLOCK = 1024**2


@dataclass
class Failure:
    """An injected failure; see `LocalHub.fail`."""

    method: str
    path: str
    times: int
    status: int
    message: str
    headers: dict[str, str]
    how: str  # "status", "drop" before an answer, or "cut" in the middle of the body


class State(ThreadingHTTPServer):
    """The server and its state."""

    daemon_threads = True

    def __init__(self, folder: Path, handler: type[Connection]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.hub = Hub(folder)
        self.log: list[dict[str, Any]] = []
        self.failures: list[Failure] = []

    def failure(self, method: str, path: str) -> Failure | None:
        """The failure injected for a request, used once."""
        with self.hub.lock:
            for failure in self.failures:
                if failure.times > 0 and re.fullmatch(failure.method, method) and re.search(failure.path, path):
                    failure.times -= 1
                    return failure
        return None


class DroppedError(Exception):
    """The connection is to be dropped."""


class Connection(BaseHTTPRequestHandler):
    """One request: its body, its answer, and an injected failure."""

    protocol_version = "HTTP/1.1"
    server: State
    cut = False

    def handle_any(self) -> None:
        """Answer, or fail if injected."""
        self.body_read, self.cut, self.status = False, False, 0
        target = urlsplit(self.path)
        self.route_path, self.query = unquote(target.path), parse_qs(target.query)
        try:
            if not self.route_path.startswith("/_control/"):
                self.go_wrong()
            self.route(target.path)
        except RefusedError as refusal:
            self.finish_body()
            headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            self.reply({"error": refusal.message, "url": refusal.url}, refusal.status, headers)
        except (DroppedError, ConnectionError):
            self.close_connection, self.status = True, self.status or -1
        finally:
            if not self.route_path.startswith("/_control/"):
                line = {"method": self.command, "path": self.route_path, "query": target.query, "status": self.status}
                self.server.log.append(line)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any  # noqa: N815  # names that http.server looks up

    def go_wrong(self) -> None:
        """Carry out the failure injected for this request, if any."""
        failure = self.server.failure(self.command, self.route_path)
        if failure is None:
            return
        if failure.how == "drop":
            raise DroppedError
        if failure.how == "cut":
            self.cut = True
            return
        self.finish_body()
        raise RefusedError(failure.status, failure.message, failure.headers.get("X-Error-Code"))

    def route(self, raw_path: str) -> None:
        """Answer."""
        raise RefusedError(404, f"no such endpoint: {self.command} {self.route_path}")

    # -- bodies --------------------------------------------------------------------------------------------------------

    def blocks(self) -> Iterator[bytes]:
        """The request's body."""
        if self.body_read:
            return
        self.body_read = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            block = self.rfile.read(min(BLOCK, left))
            if not block:
                raise DroppedError
            left -= len(block)
            yield block

    def finish_body(self) -> None:
        """Read an unused body, so that the connection can be reused."""
        for _ in self.blocks():
            pass

    def json_body(self) -> Any:
        """The body, as JSON."""
        return json.loads(b"".join(self.blocks()) or b"{}")

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.finish_body()
        body = json.dumps(content).encode()
        self.head(status, {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(body)

    def head(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  # the name in the base class
        """Print nothing; requests are in the log."""
