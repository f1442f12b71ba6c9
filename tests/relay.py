"""A port before the port of a server, to have the server gone for a while without stopping it, or speak TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from threading import Thread


class Relay:
    """Passes on what comes to `port`, while it is open."""

    def __init__(self, target: int, tls: ssl.SSLContext | None) -> None:
        self.target, self.tls = target, tls
        self.port = 0
        self.sockets: list[socket.socket] = []
        self.open()

    def open(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self.sockets.append(listener)
        Thread(target=self._accept, args=(listener,), daemon=True).start()

    def close(self) -> None:
        """Cut every connection; new ones are refused."""
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self.sockets.clear()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self.sockets.append(near)
        with contextlib.suppress(OSError):
            if self.tls is not None:
                near = self.tls.wrap_socket(near, server_side=True)
            far = socket.create_connection(("127.0.0.1", self.target))
            self.sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                Thread(target=_pass_on, args=(source, sink), daemon=True).start()


@contextlib.contextmanager
def relay(target: int, tls: ssl.SSLContext | None = None) -> Iterator[Relay]:
    made = Relay(target, tls)
    yield made
    made.close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
