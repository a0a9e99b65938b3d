"""A web server of a folder, on this machine, that counts what it is asked for, and fails as it is told."""

import functools
import http.server
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from pathlib import Path


@dataclass
class Served:
    """What a server does, and what it was asked for."""

    base: str = ""
    ranges: bool = True
    tags: bool = True
    status: list[int] = field(default_factory=list)  # of the next answers, before files are sent
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent_bytes: int = 0
    move: str | None = None  # where requests are sent on to

    def forget(self):
        self.asked.clear()
        self.sent_bytes = 0


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        served = self.server.served
        served.asked.append((self.path, self.headers.get("Range")))
        path = Path(self.translate_path(self.path))
        headers, data = {}, path.read_bytes() if path.is_file() else b""
        status = 200 if path.is_file() else 404
        if served.status:
            status, data = served.status.pop(0), b""
        elif served.move:
            status, headers["Location"] = 302, served.move
        elif status == 200:
            headers["ETag"] = f'"{md5(data).hexdigest()}"'
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if served.ranges and found:
                first, last = int(found[1]), min(int(found[2]), len(data) - 1)
                status = 206 if first <= last else 416
                span = f"{first}-{last}" if first <= last else "*"
                headers["Content-Range"] = f"bytes {span}/{len(data)}"
                data = data[first : last + 1]
        self.send_response(status)
        for name, value in headers.items() if served.tags else ((n, v) for n, v in headers.items() if n != "ETag"):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except OSError:  # closed before all was sent
            return
        served.sent_bytes += len(data)


@contextmanager
def serving(folder):
    """A running server of a folder, as a `Served`."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        server.served = Served(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield server.served
        finally:
            server.shutdown()
            thread.join()
