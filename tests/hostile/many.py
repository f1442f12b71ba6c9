"""A child that converts many checkpoints, one after the other: importing torch for each would take hours."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from worker.stages import sandbox_child
from worker.stages.checkpoint import convert
from worker.stages.errors import StageError
from worker.stages.kind import kind_of

PIECE = 8  # bytes before each that say how long it is


def convert_many(source: Path, out: Path) -> dict[str, Any]:
    """How often each code came of the checkpoints in `source`; "" for those that were converted."""
    content, codes = source.read_bytes(), Counter[str]()
    while content:
        length = int.from_bytes(content[:PIECE], "little")
        piece, content = content[PIECE : PIECE + length], content[PIECE + length :]
        codes[_code(piece, out)] += 1
    return dict(codes)


def _code(piece: bytes, out: Path) -> str:
    path = out / "piece"
    path.write_bytes(piece)
    try:
        if kind_of(path) == "checkpoint":
            convert(path, out)
    except StageError as error:
        return error.code
    except Exception as error:
        return f"reading_failed: {type(error).__name__}"
    return ""


sandbox_child.TASKS["convert_many"] = ("tests.hostile.many", "convert_many")

if __name__ == "__main__":
    sandbox_child.main()
