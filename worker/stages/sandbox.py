"""A stranger's file is read in a process of its own: spawned for it, confined, and killed at its time limit.

    facts = run("unpack_images", path, folder / "images", {"size": [32, 32]}, Limits(wall=60))

The task is a function (source, out, **arguments) named in `TASKS` of `sandbox_child.py`. It reads `source`, writes
files into the folder `out`, gives facts that JSON can say, and raises a `StageError` where the file is refused. The
child inherits no open file and no environment; before it runs the task it gives up all else (`confinement.py`), so the
task's module imports whatever it needs when it is itself imported, and not later.

Whatever comes back is a claim: a child that was taken over may write any bytes into `out`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog

import worker
from worker.stages import errors
from worker.stages.confinement import Limits
from worker.stages.errors import ReadingFailed, ReadingKilled, ReadingTooSlow, Refused, StageError
from worker.stages.refusals import REFUSALS
from worker.stages.sandbox_child import RESULT

log = structlog.get_logger()

CHILD = "worker.stages.sandbox_child"
RESULT_BYTES = 4 * 2**20
MESSAGE, LOGGED = 1_000, 4_000  # characters of an error's message, and of what the child said before it died

ENVIRONMENT = {
    "PYTHONPATH": str(Path(worker.__file__).parents[1]),
    "PYTHONSAFEPATH": "1",
    "PYTHONNOUSERSITE": "1",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",  # threads cannot be made
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

ERRORS: dict[str, Callable[[str, str | None], StageError]] = {
    error.code: error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, StageError) and error is not Refused
}


def run(task: str, source: Path, out: Path, arguments: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Run the task on `source`, with `out` as a new folder for its files. Gives the task's facts.

    A reader that is killed from outside, by a system that lacks memory or by hand, says little of the file: it is read
    once more. Raises the `StageError` that the task raised, and `ReadingTooSlow`, `ReadingTooLarge`, `ReadingFailed`,
    `ReadingKilled` or `ReadingForbidden`.
    """
    source, out = source.resolve(), out.resolve()
    order = {"task": task, "source": str(source), "out": str(out), "arguments": arguments, "limits": asdict(limits)}
    said = out.with_name(f"{out.name}.log")
    out.mkdir(mode=0o700)
    status = _wait(json.dumps(order), said, limits)
    if status == -signal.SIGKILL:
        log.warning("reader killed", task=task)
        shutil.rmtree(out)
        out.mkdir(mode=0o700)
        status = _wait(json.dumps(order), said, limits)
    answer = _answer(out / RESULT) if status == 0 else None
    if answer is None:
        log.warning("reader died", task=task, status=status, said=said.read_text(errors="replace")[-LOGGED:])
        raise _death(status)
    if "error" in answer:
        log.info("file refused", task=task, error=answer["error"], said=said.read_text(errors="replace")[-LOGGED:])
        raise _told(answer["error"])
    return dict(answer["result"])


def _wait(order: str, said: Path, limits: Limits) -> int | None:
    """The child's exit status, None where its time was over."""
    with _child(order, said) as child:
        try:
            return child.wait(limits.wall)
        except subprocess.TimeoutExpired:
            return None


@contextlib.contextmanager
def _child(order: str, said: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Gone with all its kin when the context ends, whichever way."""
    with said.open("wb") as log_file:
        child = subprocess.Popen(  # noqa: S603  our own argv
            [sys.executable, "-m", CHILD, order],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_file,
            start_new_session=True,
        )
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _answer(path: Path) -> dict[str, Any] | None:
    """What the child wrote, where it has the form of an answer."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        content = file.read(RESULT_BYTES + 1)
    try:
        answer = json.loads(content) if len(content) <= RESULT_BYTES else None
    except (ValueError, RecursionError):
        return None
    return (
        answer
        if isinstance(answer, dict) and any(isinstance(answer.get(k), dict) for k in ("result", "error"))
        else None
    )


def _told(error: dict[str, Any]) -> StageError:
    """The error that the child names, with its words cut to a length."""
    if error.get("code") in REFUSALS:
        return Refused(str(error["code"]), str(error.get("message"))[:MESSAGE])
    hint = error.get("hint")
    kind = ERRORS.get(str(error.get("code")), ReadingFailed)
    return kind(str(error.get("message"))[:MESSAGE], hint[:MESSAGE] if isinstance(hint, str) else None)


def _death(status: int | None) -> StageError:
    if status is None or status == -signal.SIGXCPU:
        return ReadingTooSlow("the file was not read within the time that is given")
    if status == -signal.SIGKILL:
        return ReadingKilled("the reader of the file was killed from outside, twice")
    if status < 0:
        return ReadingFailed(f"the reader of the file died of {signal.Signals(-status).name}")
    return ReadingFailed("the reader of the file gave no answer")
