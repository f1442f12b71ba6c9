"""How a process gives up, for good, whatever reading one file does not take.

Three layers, each as far as this machine has it: limits on resources (every Unix), Landlock for the file system, and
seccomp for all the rest (Linux); above them Python's audit events.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worker.stages import audit, landlock, seccomp

SET_DEATH_SIGNAL, SET_DUMPABLE, SET_NO_NEW_PRIVS = 1, 4, 38  # of prctl


@dataclass(frozen=True)
class Limits:
    """What reading one file may take: bytes of memory beyond the interpreter's own, seconds of computing and of
    waiting, bytes in a file that it writes, and files open at once."""

    memory: int = 2**30
    cpu: int = 120
    wall: float = 240.0
    file: int = 2**30
    files: int = 32


def layers() -> Mapping[str, str]:
    """What of it this machine has, by layer; empty where it has none."""
    known = landlock.version()
    return {
        "limits": "address space, CPU time, file size, open files",
        "landlock": f"version {known}" if known else "",
        "seccomp": "system calls" if seccomp.available() else "",
    }


def confine(source: Path, out: Path, limits: Limits) -> list[str]:
    """From here on this process reads `source`, writes into the folder `out`, and computes within `limits`. Both paths
    are absolute, and not links. Gives the list of forbidden events that Python code tries afterwards.

    Raises OSError where the kernel has a layer and refuses it.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)  # when the worker dies nobody waits for this
        libc.prctl(SET_DUMPABLE, 0, 0, 0, 0)
        libc.prctl(SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    os.chdir(out)
    os.umask(0o077)
    _limit_resources(limits)
    if landlock.version():
        landlock.restrict(source, out)
    if seccomp.available():
        seccomp.restrict()
    return audit.install(source, out)


def _limit_resources(limits: Limits) -> None:
    spent = time.process_time()
    wanted = {
        resource.RLIMIT_AS: _address_space() + limits.memory,
        resource.RLIMIT_CPU: int(spent) + 1 + limits.cpu,
        resource.RLIMIT_FSIZE: limits.file,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_NPROC: 0,  # threads too; root it does not hold, seccomp does
        resource.RLIMIT_CORE: 0,
    }
    for what, most in wanted.items():
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        last = most + 5 if what == resource.RLIMIT_CPU and hard == resource.RLIM_INFINITY else most
        resource.setrlimit(what, (most, last))  # SIGXCPU says what it was; the last seconds end in SIGKILL


def _address_space() -> int:
    """Bytes that this process has mapped; where they cannot be told, as many as PyTorch maps."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 16 * 2**30
