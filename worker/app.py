"""The Celery app and its one task. Start it with

    celery --app worker.app worker

torch is imported in the child process that runs the task, while it waits for one: the parent only hands out ids.
"""

from __future__ import annotations

import signal
from datetime import timedelta
from types import FrameType
from typing import Any
from uuid import UUID

from service import log, tracing
from service.queue import TASK, celery_app, process_started
from service.settings import Settings

log.configure()
settings = Settings()
if not settings.broker_url:  # Celery would look for a RabbitMQ on this host, and wait for it
    raise SystemExit("REDEEM_BROKER_URL is not set. It names where a worker gets its jobs from: redis://HOST:6379/0")
app = celery_app(settings)

PATIENCE = timedelta(minutes=5)
"""How long past its deadline a child is ended from outside: one that hangs so that no thread of it moves."""
STOPPING = (signal.SIGTERM, signal.SIGQUIT)
"""What a worker sends its child when it is told to stop: with REMAP_SIGTERM=SIGQUIT the second."""


@process_started.connect  # type: ignore[untyped-decorator]
def get_ready(**_: Any) -> None:
    """Every job has a fresh process, and that of the next one waits: what it needs is imported by then."""
    import worker.pipeline  # noqa: F401


@app.task(name=TASK, time_limit=(settings.job_deadline + PATIENCE).total_seconds())  # type: ignore[untyped-decorator]
def sanitize(job_id: str) -> None:
    """Run the job of this id, if it still wants running."""
    from worker.pipeline import run

    tracing.configure(settings, "redeem-worker")  # here: the threads that send spans belong to the child
    for each in STOPPING:
        signal.signal(each, _leave)  # of the child alone, which runs this one job
    run(UUID(job_id), settings)


def _leave(number: int, frame: FrameType | None) -> None:
    """The job goes back to the queue now, not when its lease is over: the stopping worker waits for its child."""
    from worker.lease import Leaving

    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    raise Leaving
