"""The Celery app and its one task. Start it with

    celery --app worker.app worker --queues sanitize

torch is imported inside the task, in the child process that runs it: the parent only hands out ids.
"""

from __future__ import annotations

from uuid import UUID

from service import log, tracing
from service.queue import TASK, celery_app
from service.settings import Settings

log.configure()
settings = Settings()
app = celery_app(settings)


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def sanitize(job_id: str) -> None:
    """Run the job of this id, if it still wants running."""
    from worker.pipeline import run

    tracing.configure(settings, "redeem-worker")  # here: the threads that send spans belong to the child
    run(UUID(job_id), settings)
