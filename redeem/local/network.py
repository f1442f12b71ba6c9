"""Addresses on this machine."""

from __future__ import annotations

import errno
import socket

from redeem.errors import ServeError


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def check_port(host: str, port: int) -> None:
    """Raise ServeError when nothing can listen there."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the API will; no wait after a restart
            listener.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServeError(
                "port_taken",
                f"Port {port} on {host} is in use by another program.",
                f"Stop that program, or give another port: redeem serve --port {port + 1}.",
            ) from error
        raise ServeError(
            "address_unusable",
            f"Cannot listen on {host} port {port}: {error.strerror or error}.",
            "Give an address of this machine and a port above 1023: redeem serve --host 127.0.0.1 --port 8642.",
        ) from error


def local_url(host: str, port: int) -> str:
    """Where this machine reaches what listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  nothing is bound here
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
