"""The worker, but the process of a job imports torch only when it has the job: what `job_start.py` compares with."""

from __future__ import annotations

from service.queue import process_started
from worker.app import app, get_ready

app.conf.include = [__name__]  # what the process of a job imports; of itself it is the modules that have tasks
process_started.disconnect(get_ready)
