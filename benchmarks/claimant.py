"""A process that claims jobs as a worker's does. A file of its own, since it starts anew: a claim needs no torch, which
takes seconds to import."""

from __future__ import annotations

import time
from uuid import UUID

from service import database
from service.settings import Settings
from worker.lease import claim


def claim_all(settings: Settings, jobs: list[UUID], start: float) -> tuple[int, float]:
    """How many of these jobs this process got from `start` on, a time of the clock, and when it was done."""
    engine = database.open_engine(settings)
    sessions = database.sessions(engine)
    time.sleep(max(0.0, start - time.time()))
    got = sum(claim(job, sessions, settings) is not None for job in jobs)
    ended = time.time()
    engine.dispose()
    return got, ended
