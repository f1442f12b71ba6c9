"""A way to a server that breaks: for trying what becomes of an upload on a bad line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from urllib.parse import urlsplit


@contextmanager
def cutting(url: str, after: Iterator[int]) -> Iterator[str]:
    """The address of a relay to the server at `url`. Each connection is cut when it has brought as many bytes as the
    next of `after` says; when there are no more of those, connections stay whole."""
    server = urlsplit(url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        relay = Thread(target=_accept, args=(listening, (server.hostname or "", server.port or 80), after), daemon=True)
        relay.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            listening.shutdown(socket.SHUT_RDWR)  # wakes who accepts
            relay.join()


def _accept(listening: socket.socket, server: tuple[str, int], after: Iterator[int]) -> None:
    while True:
        try:
            client, _ = listening.accept()
        except OSError:
            return
        ahead = socket.create_connection(server)
        Thread(target=_relay, args=(client, ahead, next(after, None)), daemon=True).start()
        Thread(target=_relay, args=(ahead, client, None), daemon=True).start()


def _relay(source: socket.socket, sink: socket.socket, left: int | None) -> None:
    with suppress(OSError):
        while (left is None or left > 0) and (read := source.recv(2**18 if left is None else min(2**18, left))):
            sink.sendall(read)
            left = None if left is None else left - len(read)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
