"""Test server in its own process, and clients in Python processes of their own.

A process each, because huggingface_hub reads HF_ENDPOINT when it is imported (which `preloaded` has not), and a cache
each, because a full cache hides a server that does not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

from preloaded import run_python

OWNER, READER = "hf_owner", "hf_reader"
USER = "tester"
SERVER = Path(__file__).with_name("server.py")
START_SECONDS = 20


class LocalHub:
    """A local Hub; use as a context manager.

    Args:
        folder: Where the server keeps what is uploaded, and homes of clients are made.

    Attributes:
        url: What HF_ENDPOINT, or `endpoint=`, must be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._homes = 0

    def __enter__(self) -> Self:
        port_file = self.folder / "port"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._errors = (self.folder / "server-errors.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(SERVER), str(self.folder / "hub"), str(port_file)], stderr=self._errors
        )
        begun = time.monotonic()
        while not port_file.exists():
            if self._process.poll() is not None or time.monotonic() - begun > START_SECONDS:
                raise RuntimeError(f"the test server did not start: {self.errors()}")
            time.sleep(0.02)
        self.url = f"http://127.0.0.1:{port_file.read_text()}"
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server, as if there were no network."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def errors(self) -> str:
        """Error output of the server."""
        return (self.folder / "server-errors.txt").read_text()

    def home(self) -> Path:
        """A new, empty HF_HOME."""
        self._homes += 1
        home = self.folder / f"home-{self._homes}"
        home.mkdir()
        return home

    def environment(self, home: Path | None = None, token: str | None = OWNER, **more: str) -> dict[str, str]:
        """The environment of a client.

        Args:
            home: Its HF_HOME. None: a new one.
            token: Who it is. None: nobody.
            more: Further variables.
        """
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home or self.home()),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "VIPS_CONCURRENCY": "1",
        }
        return kept | told | ({} if token is None else {"HF_TOKEN": token}) | more

    def python(
        self, code: str, *arguments: object, home: Path | None = None, token: str | None = OWNER, timeout: float = 300,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Run Python code (`sys.argv[1:]` are the arguments) as a client, in a new process."""
        environment = self.environment(home, token, **more)
        return run_python("-c", code, *arguments, env=environment, cwd=self.folder, timeout=timeout)

    def put(self, repo_id: str, folder: Path, *, private: bool = False) -> str:
        """Commit a folder in place of everything before, without a client. Returns the commit."""
        return str(self._ask("POST", "put", {"repo_id": repo_id, "folder": str(folder), "private": private}))

    def log(self) -> list[dict[str, Any]]:
        """All requests so far: method, path, query, status (-1: dropped)."""
        return self._ask("GET", "log")

    def clear(self) -> None:
        """Clear the log and unused failures."""
        self._ask("POST", "clear")

    def repository(self, repo_id: str) -> dict[str, Any]:
        """`private`, `branches`, `messages` and `files` (by branch and path: size, sha256, lfs) of a repository."""
        return self._ask("GET", f"repository/{repo_id}")

    def content(self, repo_id: str, path: str, revision: str = "main") -> bytes:
        """The content of a file that was uploaded."""
        sha256 = self.repository(repo_id)["files"][revision][path]["sha256"]
        return (self.folder / "hub" / "objects" / sha256).read_bytes()

    def fail(
        self,
        method: str,
        path: str,
        *,
        times: int = 1,
        how: str = "status",
        status: int = 503,
        message: str = "as ordered",
        code: str | None = None,
    ) -> None:
        """Make the next requests fail.

        Args:
            method: Pattern of the method, matched whole.
            path: Pattern of the (unquoted) path, found anywhere.
            times: How many requests.
            how: "status" answers with `status`, "drop" cuts the connection before an answer, "cut" in the middle of a
                file.
            status: 503, 412, 507 ...
            message: X-Error-Message.
            code: X-Error-Code.
        """
        headers = {"X-Error-Code": code} if code else {}
        order = {"method": method, "path": path, "times": times, "status": status, "message": message}
        self._ask("POST", "fail", {**order, "headers": headers, "how": how})

    def _ask(self, method: str, what: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = Request(f"{self.url}/_control/{what}", data=body, method=method)
        with urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
