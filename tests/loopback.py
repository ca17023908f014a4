"""The loopback interface: a free port, and a file server that can misbehave in the ways that mirrors do."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Mirror:
    """What is served, how it misbehaves, and what it was asked for."""

    content: bytes
    ranges: bool = True
    etags: list[str] = field(default_factory=lambda: ['"v1"'])  # of the next answers; the last one stays
    status: int | None = None  # answer everything with this
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    requests: list[dict[str, str | None]] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.requests.append({name: self.headers.get(name) for name in ("Range", "If-Range")})
            if mirror.status is not None:
                self.send_error(mirror.status)
                return
            etag = mirror.etags.pop(0) if len(mirror.etags) > 1 else mirror.etags[0]
            body, total = mirror.content, len(mirror.content)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and mirror.ranges and self.headers.get("If-Range", etag) == etag:
                start = int(wanted[1])
                if start >= total:
                    self.send_error(416)
                    return
                body = body[start:]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", etag)
            self.end_headers()
            part = body[: mirror.cuts.pop(0)] if mirror.cuts else body
            self.wfile.write(part)
            mirror.sent.append(len(part))

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    mirror.url = f"http://127.0.0.1:{server.server_port}/archive"
    try:
        yield mirror
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
