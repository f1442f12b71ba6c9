"""A child like `worker/stages/sandbox_child.py`, whose tasks do what a reader that was taken over would."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.stages import sandbox_child
from worker.stages.errors import EmptyBundle

LIBC = ctypes.CDLL(None)
C = {name: getattr(LIBC, name) for name in ["fork", "socket", "execv", "open", "unlink", "kill", "ptrace", "setrlimit"]}

ERRNO = LIBC.__errno_location
ERRNO.restype = ctypes.POINTER(ctypes.c_int)


def attempts(source: Path, out: Path, *, names: list[str]) -> dict[str, Any]:
    """What each of the deeds of these names ended in: "done", or the name of the error."""
    return {name: _outcome(DEEDS[name], source, out) for name in names}


def _outcome(deed: Callable[[Path, Path], object], source: Path, out: Path) -> str:
    try:
        deed(source, out)
    except Exception as error:
        return type(error).__name__
    return "done"


def _libc(name: str, *arguments: object) -> None:
    """Past Python's audit events."""
    if C[name](*arguments) < 0:
        raise OSError(ERRNO().contents.value, name)


MEMSET = ctypes.memset
ARGUMENTS = (ctypes.c_char_p * 2)(b"true", None)

DEEDS: dict[str, Callable[[Path, Path], object]] = {
    "read its input": lambda source, _out: source.read_bytes(),
    "write into its folder": lambda _source, out: (out / "file").write_text("x"),
    "read another file": lambda source, _out: (source.parent / "secret").read_text(),
    "write another file": lambda source, _out: (source.parent / "canary").write_text("x"),
    "change its input": lambda source, _out: source.write_text("x"),
    "list a folder": lambda source, _out: os.listdir(source.parent),
    "link out of its folder": lambda source, out: os.symlink(source.parent / "secret", out / "link"),
    "start a program": lambda _source, _out: subprocess.run(["true"], check=True),
    "fork": lambda _source, _out: os._exit(0) if os.fork() == 0 else None,
    "open a socket": lambda _source, _out: socket.socket(),
    "make a thread": lambda _source, _out: threading.Thread(target=len, args=("",)).start(),
    "compile": lambda _source, _out: compile("1", "x", "eval"),
    "fork in C": lambda _source, _out: _libc("fork"),
    "socket in C": lambda _source, _out: _libc("socket", 2, 1, 0),
    "execute in C": lambda _source, _out: _libc("execv", b"/bin/true", ARGUMENTS),
    "read in C": lambda source, _out: _libc("open", os.fsencode(source.parent / "secret"), os.O_RDONLY),
    "write in C": lambda source, _out: _libc("open", os.fsencode(source.parent / "canary"), os.O_WRONLY | os.O_CREAT),
    "unlink in C": lambda source, _out: _libc("unlink", os.fsencode(source)),
    "kill its parent": lambda _source, _out: _libc("kill", os.getppid(), signal.SIGTERM),
    "trace": lambda _source, _out: _libc("ptrace", 16, os.getppid(), None, None),
    "raise its limits": lambda _source, _out: _libc("setrlimit", 7, (ctypes.c_ulong * 2)(1000, 1000)),
}


def take_memory(_source: Path, _out: Path) -> dict[str, Any]:
    return {"length": len(bytearray(2**40))}


def map_memory(_source: Path, _out: Path) -> dict[str, Any]:
    return {"length": len(mmap.mmap(-1, 2**34))}


def write_much(_source: Path, out: Path) -> dict[str, Any]:
    with (out / "big").open("wb") as file:
        for _ in range(100):
            file.write(bytes(2**20))
    return {}


def open_many(source: Path, _out: Path) -> dict[str, Any]:
    return {"count": len([source.open() for _ in range(1000)])}


def compute(_source: Path, _out: Path) -> dict[str, Any]:
    while True:
        pass


def wait(_source: Path, _out: Path) -> dict[str, Any]:
    time.sleep(600)
    return {}


def crash(_source: Path, _out: Path) -> dict[str, Any]:
    MEMSET(1, 0, 1)
    return {}


def refuse(_source: Path, _out: Path) -> dict[str, Any]:
    raise EmptyBundle("nothing in it", "Put something in.")


def break_down(_source: Path, _out: Path) -> dict[str, Any]:
    raise ZeroDivisionError("with /a/path of the server")


def answer_nonsense(_source: Path, out: Path, *, content: str) -> dict[str, Any]:
    (out / sandbox_child.RESULT).write_text(content)
    os._exit(0)


def see(_source: Path, _out: Path) -> dict[str, Any]:
    """What it was given besides its orders."""
    descriptors = []
    for number in range(3, 32):
        try:
            os.fstat(number)
        except OSError:
            continue
        descriptors.append(number)
    return {"environment": ENVIRONMENT, "descriptors": descriptors, "session": SESSION, "modules": sorted(sys.modules)}


ENVIRONMENT, SESSION = dict(os.environ), os.getsid(0) == os.getpid()
NAMES = "attempts take_memory map_memory write_much open_many compute wait crash refuse break_down answer_nonsense see"
sandbox_child.TASKS.update({name: ("tests.worker.stages.misbehaving", name) for name in NAMES.split()})

if __name__ == "__main__":
    sandbox_child.main()
