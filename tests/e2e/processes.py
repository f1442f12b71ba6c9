"""The processes of a server that runs: which there are, and what they take."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


def wait(true: Callable[[], bool], seconds: float = 300.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def processes(data: Path, having: str = "") -> dict[int, str]:
    """Process ids to command lines of the living that work in the data folder, and have this in their command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and os.readlink(entry / "cwd").startswith(str(data)):
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it went meanwhile
    return {number: command for number, command in found.items() if having in command}


def pool_child(data: Path) -> int:
    """The process that runs the job."""
    (child,) = processes(data, "spawn_main")
    return child


def descriptors(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))


def resident(process: int) -> int:
    """Bytes."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
