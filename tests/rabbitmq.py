"""A RabbitMQ of the tests' own: it shares no folder, port, cookie or port mapper with one of the system, and nothing of
it outlives the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLACES = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/sbin"), Path("/opt/homebrew/sbin"))
CONFIGURATION = "[{rabbit, [{consumer_timeout, 12000}, {channel_tick_interval, 500}]}]."
"""Who keeps a message for twelve seconds without acknowledging it loses its channel; commonly it is half an hour."""


@dataclass
class RabbitServer:
    """A node that may be killed, and started again on the same port."""

    binary: Path
    folder: Path
    port: int
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    vhost: str = "/"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{self.vhost}"

    def start(self) -> None:
        with (self.folder / "output").open("ab") as output:
            self.process = subprocess.Popen(
                [self.binary], env=self.environment, cwd=self.folder, process_group=0,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + 90
        while not _answers(self.port):
            alive = self.process.poll() is None and time.monotonic() < deadline
            assert alive, f"RabbitMQ did not start:\n{(self.folder / 'output').read_text()[-2000:]}"
            time.sleep(0.05)

    def kill(self) -> None:
        """At once, as when the power goes."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)

    def forget(self) -> None:
        """Everything that it kept on disk; it must not run."""
        shutil.rmtree(self.folder / "data")

    def control(self, *words: str) -> None:
        """What an operator does: `rabbitmqctl`, a few seconds each time."""
        command = [self.binary.with_name("rabbitmqctl"), "--quiet", *words]
        subprocess.run(command, env=self.environment, cwd=self.folder, check=True, capture_output=True, timeout=60)


def find_rabbitmq() -> Path | None:
    """The server itself: what Debian has on the PATH is a wrapper that only root and the user rabbitmq may run."""
    wrapped = shutil.which("rabbitmq-server")
    found = [place / "rabbitmq-server" for place in PLACES if (place / "rabbitmq-server").exists()]
    return next(iter(found), Path(wrapped) if wrapped else None)


@contextmanager
def rabbit_server(binary: Path, folder: Path) -> Iterator[RabbitServer]:
    """Started in `folder`, and killed at the end: nobody misses what it keeps."""
    port, distribution, mapper = _free_ports(3)
    (folder / "advanced.config").write_text(CONFIGURATION)
    (folder / "plugins").write_text("[].")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),  # where Erlang makes its cookie
        "LANG": "C.UTF-8",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper),
        "ERL_MAX_PORTS": "4096",  # its table is made for all of them at once
        "RABBITMQ_NODENAME": f"redeem-{port}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RUNNING_UNDER_SYSTEMD": "yes",  # the script becomes the server, and does not stand between us and it
    }
    # Erlang would start its port mapper as a daemon, and leave it running.
    with subprocess.Popen(["epmd", "-port", str(mapper), "-address", "127.0.0.1"], env=environment) as names:
        server = RabbitServer(binary, folder, port, environment)
        try:
            server.start()
            yield server
        finally:
            if server.process is not None and server.process.poll() is None:
                server.kill()
            names.terminate()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _answers(port: int) -> bool:
    """Whether something listens there and speaks AMQP."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return bool(connection.recv(1))
    except OSError:
        return False
