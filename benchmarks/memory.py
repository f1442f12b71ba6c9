"""What a process holds. A file of its own, since the other helpers import torch, or what a server needs."""

from __future__ import annotations

from pathlib import Path


def memory_of(process: int | str, name: str) -> int:
    """Bytes of a process, or of `self`, as Linux tells them: VmRSS, its parts RssAnon and RssFile, or VmHWM, the most
    that VmRSS was."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
