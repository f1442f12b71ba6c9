"""One supervised process: start it in a group of its own, read the end of its log, stop its whole group."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOG_LIMIT = 10 * 2**20  # bytes; a longer log is put aside when its process starts
TAIL = 64 * 2**10


@dataclass(frozen=True)
class Process:
    """What to run. `ready` is given what the process wrote to its log since it started."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    ready: Callable[[str], bool]
    ready_within: float = 60.0
    """Seconds."""
    grace: float = 5.0
    """Seconds between SIGTERM and SIGKILL."""


@dataclass(frozen=True)
class Running:
    popen: subprocess.Popen[bytes]
    log: Path
    log_start: int
    started_at: float

    @property
    def dead(self) -> bool:
        return self.popen.poll() is not None

    @property
    def age(self) -> float:
        return time.monotonic() - self.started_at

    def output(self) -> str:
        """What it wrote so far, or the last 64 KiB of it."""
        with self.log.open("rb") as file:
            file.seek(max(self.log_start, os.fstat(file.fileno()).st_size - TAIL))
            return file.read().decode(errors="replace")


def start(process: Process, folder: Path) -> Running:
    """Start a process in `folder`; it writes to `logs/<name>.log` there and dies with the thread that calls this."""
    log = folder / "logs" / f"{process.name}.log"
    if log.exists() and log.stat().st_size > LOG_LIMIT:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:
        log_start = file.tell()
        popen = subprocess.Popen(  # noqa: S603  our own argv
            [sys.executable, "-m", "redeem.local.tether", str(os.getpid()), *process.argv],
            env=dict(process.environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C reaches only the supervisor, which then stops the others in order
        )
    return Running(popen, log, log_start, time.monotonic())


def stop(running: Running, grace: float) -> None:
    """SIGTERM, then after `grace` seconds SIGKILL to the whole group. Returns when the process is gone."""
    if not running.dead:
        running.popen.terminate()
        with suppress(subprocess.TimeoutExpired):
            running.popen.wait(grace)
    # The group outlives its leader when that left children behind; its number is not used anew before they are gone.
    with suppress(ProcessLookupError):
        os.killpg(running.popen.pid, signal.SIGKILL)
    running.popen.wait()
