"""Start processes in order, keep them alive, stop them in reverse order."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redeem.errors import ServeError
from redeem.local.processes import Process, Running, start, stop

POLL = 0.1  # seconds
FAST_DEATH = 30.0  # seconds of life; whoever lived longer starts with a clean record
MAX_FAST_DEATHS = 5
BACKOFF = 0.5  # seconds before the first restart; doubles with every fast death
LAST_LINES = 15


@dataclass
class Child:
    """A process and its record."""

    process: Process
    running: Running
    fast_deaths: int = 0
    restart_at: float | None = None
    """Monotonic time; None while it runs."""


@contextmanager
def supervised(processes: Sequence[Process], folder: Path) -> Iterator[Future[None]]:
    """Start the processes in order, each when the one before is ready, and keep them alive until the block ends.

    Yields a future that ends only when one of them cannot be kept alive, with the ServeError that says so. Raises
    ServeError when one does not come up. Nothing of them is left afterwards.
    """
    halt, up = threading.Event(), Future[None]()
    # One thread starts them all and outlives them all: the kernel ties a child to the thread that made it.
    with ThreadPoolExecutor(1, thread_name_prefix="supervisor") as pool:
        ended = pool.submit(_supervise, processes, folder, halt, up)
        try:
            wait((up, ended), return_when=FIRST_COMPLETED)
            if ended.done():
                ended.result()
            yield ended
        finally:
            halt.set()


def _supervise(processes: Sequence[Process], folder: Path, halt: threading.Event, up: Future[None]) -> None:
    children: list[Child] = []
    try:
        for process in processes:
            children.append(Child(process, start(process, folder)))
            _await_ready(children[-1], halt)
        up.set_result(None)
        while not halt.wait(POLL):
            for child in children:
                _keep_alive(child, folder)
    finally:
        for child in reversed(children):
            stop(child.running, child.process.grace)


def _await_ready(child: Child, halt: threading.Event) -> None:
    process, running = child.process, child.running
    while not halt.is_set():
        if running.dead:
            raise _gave_up("start_failed", f"{process.name} stopped while it started", running)
        if process.ready(running.output()):
            return
        if running.age > process.ready_within:
            raise _gave_up("start_timeout", f"{process.name} was not ready in {process.ready_within:.0f} s", running)
        halt.wait(POLL)


def _keep_alive(child: Child, folder: Path) -> None:
    """Restart a dead process after a pause that doubles; raise ServeError once it died fast too often in a row."""
    if not child.running.dead:
        return
    if child.restart_at is None:
        stop(child.running, grace=0)  # what it left in its group
        child.fast_deaths = child.fast_deaths + 1 if child.running.age < FAST_DEATH else 1
        if child.fast_deaths >= MAX_FAST_DEATHS:
            message = f"{child.process.name} died {child.fast_deaths} times in a row"
            raise _gave_up("keeps_dying", message, child.running)
        child.restart_at = time.monotonic() + BACKOFF * 2 ** (child.fast_deaths - 1)
    elif time.monotonic() >= child.restart_at:
        child.running, child.restart_at = start(child.process, folder), None


def _gave_up(code: str, what: str, running: Running) -> ServeError:
    lines = running.output().splitlines()[-LAST_LINES:]
    code_text = f" (exit code {running.popen.returncode})" if running.dead else ""
    detail = "\n".join([f"{what}{code_text}. Its last lines:", *(f"  {line}" for line in lines or ["(none)"])])
    return ServeError(code, detail, f"The whole log is {running.log}. `redeem doctor` checks this machine.")
