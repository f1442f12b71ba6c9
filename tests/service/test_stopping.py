from __future__ import annotations

import signal
import threading

from service import stopping


def test_both_the_event_and_who_listened_before_hear_of_it() -> None:
    event, others = threading.Event(), []
    before = signal.signal(signal.SIGTERM, lambda *_: others.append(event.is_set()))
    try:
        with stopping.heard(event):
            signal.raise_signal(signal.SIGTERM)
            assert event.is_set()
            assert others == [True]  # followers have to know before uvicorn waits for them
        signal.raise_signal(signal.SIGTERM)
        assert len(others) == 2
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_app_in_another_thread_leaves_the_signals_alone() -> None:
    seen = []

    def run() -> None:
        with stopping.heard(threading.Event()):
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]
