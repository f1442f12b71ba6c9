"""A worker as the real one is, but for its jobs: they sleep as long as a file says, and write down what they do."""

from __future__ import annotations

import time

from service.queue import TASK, celery_app
from service.settings import Settings

settings = Settings()
app = celery_app(settings)


@app.task(name=TASK)  # type: ignore[untyped-decorator]
def sanitize(job: str) -> None:
    with (settings.data / "diary").open("a", buffering=1) as diary:
        diary.write(f"begin {job}\n")
        time.sleep(float((settings.data / "seconds").read_text()))
        diary.write(f"end {job}\n")
