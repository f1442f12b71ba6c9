"""A little server that takes webhooks, and answers as it is told."""

from __future__ import annotations

import contextlib
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

Answer: TypeAlias = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Sink:
    url: str
    answers: list[Answer]
    """One for each request, the last for all that follow."""
    got: list[tuple[dict[str, str], str]] = field(default_factory=list)
    """Headers, with names in lower case, and body of each request."""

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1].split("/")[0])


def status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def slow_body(handler: BaseHTTPRequestHandler) -> None:
    """A good status at once, and then a byte now and then without end."""
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b".")
            time.sleep(0.05)


def slow_head(handler: BaseHTTPRequestHandler) -> None:
    """Never a pause as long as a time-out, and never an answer."""
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drop: ")
        for _ in range(200):
            handler.wfile.write(b".")
            time.sleep(0.05)


@contextlib.contextmanager
def listening(
    *answers: Answer, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[Sink]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            sink.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
            sink.answers[min(len(sink.got), len(sink.answers)) - 1](self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # who is refused hangs up

    server = Server((host, port), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    sink = Sink(f"http{'s' if tls else ''}://{host}:{server.server_address[1]}/hook", list(answers))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
