"""Landlock: Linux's way for a process to give up the file system, by itself and for good (kernel 5.13 and newer)."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the numbers of all architectures
VERSION = 1  # flag of CREATE_RULESET: say which version the kernel has
PATH_BENEATH = 1

WRITE_FILE, READ_FILE, READ_DIR, MAKE_REG, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 14
RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""How many rights on files a version of Landlock knows, each a bit."""
BIND_TCP, CONNECT_TCP = 1, 2  # since version 4
ABSTRACT_SOCKETS, SIGNALS = 1, 2  # since version 6


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def version() -> int:
    """The version of Landlock that this kernel has, 0 for none."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION)))


def restrict(source: Path, out: Path) -> None:
    """From here on this process may read the file `source`, and make, read and write files in the folder `out`; of all
    other files, and of TCP, it has what it has open. Needs `no_new_privs`. Raises OSError."""
    known = version()
    files = (1 << max(rights for since, rights in RIGHTS.items() if since <= known)) - 1
    network = BIND_TCP | CONNECT_TCP if known >= 4 else 0
    scoped = ABSTRACT_SOCKETS | SIGNALS if known >= 6 else 0
    ruleset = _Ruleset(files, network, scoped)
    size = 8 if known < 4 else 16 if known < 6 else 24
    rules = _call(CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), 0)
    try:
        _allow(rules, source, READ_FILE)
        _allow(rules, out, files & (READ_FILE | READ_DIR | WRITE_FILE | MAKE_REG | TRUNCATE))
        _call(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)


def _allow(rules: int, path: Path, rights: int) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _call(ADD_RULE, rules, PATH_BENEATH, ctypes.byref(_PathBeneath(rights, opened)), 0)
    finally:
        os.close(opened)


def _call(*arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "Landlock")
    return int(result)
