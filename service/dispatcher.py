"""Brings queued jobs to the queue and dead ones back: a loop in a thread, beside the requests.

The job's row is the outbox. A message is sent before the row says so, so a crash in between sends it twice, never not
at all; the worker's claim makes the second one a no-op. Any number of dispatchers may run.
"""

from __future__ import annotations

import math
import time
from datetime import timedelta
from threading import Event
from uuid import UUID

import structlog

from service import queue, records
from service.context import Context
from service.tidying import tidy

log = structlog.get_logger(__name__)

INTERVAL = 2.0
"""Seconds between two rounds, where nothing wakes the loop before."""
TIDYING = 60.0
"""Seconds between two times that what is left over is removed."""
PATIENCE = timedelta(seconds=60)
"""After how long a message that was not taken may be taken for lost."""


def run(context: Context, stop: Event) -> None:
    """Rounds until `stop` is set; set `context.wake` too, to be heard at once."""
    trouble, tidied = "", -math.inf
    patience = timedelta(
        0
    )  # what was sent before this start, or before trouble, may be gone with the broker that had it
    while not stop.is_set():
        previous, trouble = trouble, _round(context, patience)
        patience = timedelta(0) if trouble else PATIENCE
        if trouble != previous:
            log.warning("dispatching is held up", reason=trouble) if trouble else log.info("dispatching goes on")
        if time.monotonic() - tidied > TIDYING:
            tidied = _tidy(context)
        context.wake.wait(INTERVAL)
        context.wake.clear()


def _round(context: Context, patience: timedelta) -> str:
    """What was in the way, or nothing."""
    try:
        reap(context)
        dispatch(context, patience)
    except queue.BrokerUnavailable as error:
        return str(error)
    except Exception as error:
        # Whatever it is, the loop must go on: without it no job ever starts.
        log.exception("dispatching failed")
        return f"{type(error).__name__}: {error}"
    return ""


def _tidy(context: Context) -> float:
    """When it was done, or given up until the next time."""
    try:
        tidy(context)
    except Exception:
        log.exception("tidying failed")
    return time.monotonic()


def reap(context: Context) -> None:
    with context.sessions.begin() as session:
        for job in records.reap(session, context.settings.max_attempts):
            log.warning("a worker was lost", job=str(job.id), attempts=job.attempts, state=job.state)


def dispatch(context: Context, patience: timedelta = PATIENCE) -> None:
    """Send what was never sent, as far as there is room on its class's queue, then what was lost longer than `patience`
    ago. Raises BrokerUnavailable."""
    with context.readers() as session:
        classes = records.classes_queued(session)
    for device_class in classes:
        _dispatch(context, device_class, patience)


def _dispatch(context: Context, device_class: str | None, patience: timedelta) -> None:
    with context.readers() as session:
        room = context.settings.queue_ahead - records.sent(session, device_class)
        jobs = records.never_sent(session, device_class, room) if room > 0 else []
        stale = bool(records.sent_before(session, device_class, patience, limit=1))
    for job in jobs:
        _send(context, job, device_class)
    if stale:
        for job in _lost(context, device_class, patience):
            _send(context, job, device_class)


def _lost(context: Context, device_class: str | None, patience: timedelta) -> list[UUID]:
    """Jobs whose message is likely gone, as after a broker lost its memory.

    A job may rightly wait for hours behind others, so age alone says nothing, and sending every old one again each
    minute would fill the queue with no-ops. But there are fewer messages waiting than jobs only if some are missing.
    """
    waiting = queue.waiting(context.queue, device_class)
    with context.readers() as session:
        missing = records.sent(session, device_class) - waiting
        return records.sent_before(session, device_class, patience, limit=missing) if missing > 0 else []


def _send(context: Context, job: UUID, device_class: str | None) -> None:
    queue.send(context.queue, job, device_class)
    with context.sessions.begin() as session:
        records.mark_sent(session, job)
