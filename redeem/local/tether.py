"""Run a command that dies with its parent: `python -m redeem.local.tether PARENT_PID COMMAND …`.

The kernel sends SIGKILL when the parent ends in whatever way, `kill -9` included. Setting this up takes a call between
fork and exec; a tiny program is the safe place for it, since a function run there can deadlock a parent with threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel knew
        sys.exit("the parent is gone")
    os.execvp(command[0], command)  # noqa: S606  the whole point


if __name__ == "__main__":
    main()
