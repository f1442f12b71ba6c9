"""What Python code in the child that reads uploads may not do. The kernel says the same below, where it can."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

FORBIDDEN = (
    "subprocess.Popen",
    "os.exec",
    "os.fork",
    "os.forkpty",
    "os.posix_spawn",
    "os.spawn",
    "os.startfile",
    "os.system",
    "pty.spawn",
    "socket.",
    "urllib.",
    "http.",
    "ftplib.",
    "smtplib.",
    "ctypes.",
    "code.",
    "exec",
    "compile",
    "pickle.find_class",
    "marshal.",
    "webbrowser.",
    "sys.settrace",
    "sys.setprofile",
    "sys.addaudithook",
)
"""Beginnings of audit events. No reader of a file has a reason for any of them, so one that tries is not believed."""

ELSEWHERE = ("os.", "shutil.", "tempfile.", "glob.", "pathlib.")
"""Events of the file system other than opening a file: refused, but a library that looks around is not hostile."""


def install(source: Path, out: Path) -> list[str]:
    """From here on forbidden events, and files other than `source` and those in `out`, raise PermissionError. Gives a
    list that grows by every forbidden event that was tried."""
    tried: list[str] = []
    allowed, inside = str(source), str(out) + os.sep

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(FORBIDDEN):
            tried.append(event)
            raise PermissionError(f"{event} is not for a reader of uploads")
        if event == "open":
            path = arguments[0]
            if not isinstance(path, int) and os.path.abspath(os.fsdecode(path)) != allowed:
                _refuse_outside(os.path.abspath(os.fsdecode(path)), inside)
        elif event.startswith(ELSEWHERE):
            raise PermissionError(f"{event} is not for a reader of uploads")

    sys.addaudithook(refuse)
    return tried


def _refuse_outside(path: str, inside: str) -> None:
    if not path.startswith(inside):
        raise PermissionError(f"{path} is not for a reader of uploads")
