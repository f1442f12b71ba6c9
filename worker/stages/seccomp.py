"""seccomp: from here on this process makes none but the system calls below, for good.

The list is of what computing on memory and on open files takes. No process, thread, program or socket can be made, no
signal sent, no other process looked at, no limit raised; what `openat` may open, Landlock says. Everything else fails
with EPERM.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

ALLOWED = {  # name: number on x86_64, number on aarch64 (None: it does not have the call)
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "lseek": (8, 62),
    "open": (2, None),
    "openat": (257, 56),
    "close": (3, 57),
    "dup": (32, 23),
    "fcntl": (72, 25),
    "fsync": (74, 82),
    "ftruncate": (77, 46),
    "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "brk": (12, 214),
    "membarrier": (324, 283),
    "futex": (202, 98),
    "set_robust_list": (273, 99),
    "rseq": (334, 293),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getrusage": (98, 165),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "time": (201, None),
    "gettimeofday": (96, 169),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine: column above, and the kernel's name for the architecture (AUDIT_ARCH_…)."""

SET_SECCOMP, GET_SECCOMP, FILTER = 22, 21, 2  # of prctl
LOAD, IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of BPF: 32 bits from the call's data; a jump; an answer
NUMBER, ARCHITECTURE = 0, 4  # where in the call's data they are
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # 1 is EPERM


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("then", ctypes.c_uint8), ("other", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("instructions", ctypes.POINTER(_Instruction)))


def available() -> bool:
    """Whether this kernel has seccomp, and we know this machine's system calls."""
    known = sys.platform.startswith("linux") and platform.machine() in MACHINES
    return known and ctypes.CDLL(None).prctl(GET_SECCOMP, 0, 0, 0, 0) >= 0


def restrict() -> None:
    """Needs `no_new_privs`. Raises OSError."""
    instructions = program(platform.machine())
    array = (_Instruction * len(instructions))(*(_Instruction(*each) for each in instructions))
    filters = _Program(len(array), array)
    if ctypes.CDLL(None, use_errno=True).prctl(SET_SECCOMP, FILTER, ctypes.byref(filters), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "seccomp")


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter as instructions of classic BPF: code, how far to jump if equal, how far if not, a constant."""
    column, architecture = MACHINES[machine]
    numbers = [number for call in ALLOWED.values() if (number := call[column]) is not None]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),  # calls of another architecture have other numbers
        (LOAD, 0, 0, NUMBER),
        *(step for number in numbers for step in ((IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW))),
        (RETURN, 0, 0, REFUSE),
    ]
