"""What refusing a file may cost."""

from __future__ import annotations

import contextlib
import time
import tracemalloc
from collections.abc import Iterator


@contextlib.contextmanager
def within(memory: int, seconds: float = 5.0) -> Iterator[None]:
    """Fails where what is inside takes more bytes of Python's memory at its peak, or more seconds of computing."""
    tracemalloc.start()
    begun = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < memory
        assert time.process_time() - begun < seconds
    finally:
        tracemalloc.stop()
