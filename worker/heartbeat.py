"""A thread beside a job: it keeps the lease, and ends the job that does not end by itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import structlog
from sqlalchemy.exc import SQLAlchemyError

from redeem.contract import JobError
from worker.lease import Lease, LeaseLost, end_cancelled, fail, sign_of_life

log = structlog.get_logger()


@contextlib.contextmanager
def heartbeat(lease: Lease, abandon: Callable[[], None]) -> Iterator[None]:
    """Extend the lease until the context ends, and learn of a cancellation or of a lost lease: `lease.check` tells the
    job. One that does not listen, or goes on past its deadline, hangs: its row is closed here, and `abandon` has to end
    the process, since nothing else ends its work."""
    done = threading.Event()
    thread = threading.Thread(target=_beat, args=(lease, done, abandon), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _beat(lease: Lease, done: threading.Event, abandon: Callable[[], None]) -> None:
    interval, grace = (at.total_seconds() for at in (lease.settings.heartbeat, lease.settings.cancel_grace))
    deadline, cancelled_at = time.monotonic() + lease.settings.job_deadline.total_seconds(), float("inf")
    while not done.wait(interval):
        try:
            sign_of_life(lease)
            if lease.cancelled.is_set():
                cancelled_at = min(cancelled_at, time.monotonic())
            if time.monotonic() > cancelled_at + grace:
                end_cancelled(lease)
            elif time.monotonic() > deadline:
                fail(lease, _too_late(lease))
            else:
                continue
        except LeaseLost:
            if done.wait(grace):
                return
        except SQLAlchemyError as error:  # the database may come back before the lease ends
            log.warning("no heartbeat", job=str(lease.job), error=str(error))
            continue
        log.error("the job does not stop by itself; its process is ended", job=str(lease.job))
        abandon()
        return


def _too_late(lease: Lease) -> JobError:
    return JobError(
        code="deadline_exceeded",
        detail=f"The job was not done {lease.settings.job_deadline} after a worker took it.",
        hint="Use fewer epochs or a smaller bundle, a worker with a GPU, or have REDEEM_JOB_DEADLINE raised.",
    )
