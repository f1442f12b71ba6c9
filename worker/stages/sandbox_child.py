"""The child that reads one file of a stranger. `worker/stages/sandbox.py` starts it, and says how to add a task.

What a task needs is imported before the child is confined: afterwards there is no file to import from.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker.stages.confinement import Limits, confine
from worker.stages.errors import ReadingFailed, ReadingForbidden, ReadingTooLarge, StageError

RESULT = "result.json"

TASKS: dict[str, tuple[str, str]] = {
    "flatten_onnx": ("worker.stages.onnx_file", "flatten_onnx"),
    "run_onnx": ("worker.stages.onnx_run", "run_onnx"),
    "convert_checkpoint": ("worker.stages.checkpoint", "convert"),
    "unpack_images": ("worker.stages.image_folder", "unpack_images"),
}
"""What the child can do: a module, and a function (source, out, **arguments) in it that gives what JSON can say."""

TOO_MUCH = (errno.ENOMEM, errno.EFBIG, errno.EMFILE, errno.ENFILE)


def main() -> None:
    order = json.loads(sys.argv[1])
    module, function = TASKS[order["task"]]
    task: Callable[..., dict[str, Any]] = getattr(importlib.import_module(module), function)
    source, out = Path(order["source"]), Path(order["out"])
    tried = confine(source, out, Limits(**order["limits"]))
    answer = perform(task, source, out, order["arguments"])
    if tried:
        error = ReadingForbidden(f"while the file was read its reader tried {', '.join(sorted(set(tried))[:5])}")
        answer = {"error": _told(error)}
    (out / RESULT).write_text(json.dumps(answer))
    os._exit(0)  # nothing is left to tidy up, and nothing of a stranger's is to run on the way out


def perform(task: Callable[..., dict[str, Any]], source: Path, out: Path, arguments: dict[str, Any]) -> dict[str, Any]:
    """`{"result": …}`, or `{"error": {code, message, hint}}`."""
    try:
        return {"result": task(source, out, **arguments)}
    except StageError as error:
        return {"error": _told(error)}
    except BaseException as error:
        _say(error)
        if _is_too_much(error):
            return {"error": _told(ReadingTooLarge("reading the file takes more memory or writes more than is given"))}
        return {"error": _told(ReadingFailed(f"the reader of the file broke on it: {type(error).__name__}"))}


def _say(error: BaseException) -> None:
    """For the worker's log. A usual traceback shows source lines, and reads and compiles files for it."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    sys.stderr.write("\n".join([*places, f"{type(error).__name__}: {error}"[:1_000]]))
    sys.stderr.flush()


def _told(error: StageError) -> dict[str, str]:
    return {"code": error.code, "message": str(error), "hint": error.hint}


def _is_too_much(error: BaseException) -> bool:
    # On a CPU torch has no exception of its own for it.
    number = error.errno if isinstance(error, OSError) else None
    return isinstance(error, MemoryError) or number in TOO_MUCH or "can't allocate memory" in str(error)


if __name__ == "__main__":
    main()
