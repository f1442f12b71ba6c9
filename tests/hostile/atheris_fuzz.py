"""The readers of files from strangers under Atheris, which is led by what code a file reaches. By hand, since it ends
with the process, and brings a libFuzzer that not every machine has:

    pip install atheris
    python -m tests.hostile.atheris_fuzz safetensors -runs=10000 -max_len=65536

`safetensors`, `zip` or `checkpoint` (of it what is looked at before the child, which is `test_fuzz.py`'s). Whatever is
not a refusal with a code ends it with a traceback, and libFuzzer writes the file that did it.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found,unused-ignore]

with atheris.instrument_imports(include=["worker.stages"]):
    from tests.hostile.mutations import SOUND
    from tests.hostile.test_fuzz import attempt


def main() -> None:
    kind = sys.argv.pop(1)
    with tempfile.TemporaryDirectory() as folder:
        seeds = Path(folder) / "seeds"
        seeds.mkdir()
        (seeds / "sound").write_bytes(SOUND[kind])
        atheris.Setup([*sys.argv, str(seeds)], lambda content: attempt(kind, content, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
