"""That the server was told to stop, while it still answers. Whoever follows a job is let go then, and goes on with
another server or a later one: otherwise a server would wait for them, and break them off in the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def heard(stopping: threading.Event) -> Iterator[None]:
    """Set `stopping` at a signal to stop, before uvicorn, whose handlers are there already, begins to wait for its
    connections to end. Signals belong to the main thread: an app that runs in another hears of none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def handle(number: int, frame: FrameType | None) -> None:
        stopping.set()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in SIGNALS:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
