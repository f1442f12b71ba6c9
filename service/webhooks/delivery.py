"""Delivers the outbox: a loop in a thread, beside the requests. Any number of processes may run it.

An endpoint gets one delivery at a time, so one that is slow or dead holds up nobody but itself. A sender that is killed
in the middle leaves a delivery that another tries again: at least once, under the same `webhook-id`.
"""

from __future__ import annotations

import time
from threading import Event, Thread
from uuid import UUID

import structlog

from service.context import Context
from service.webhooks import outbox, sending

log = structlog.get_logger(__name__)

INTERVAL = 1.0
"""Seconds between two looks into the outbox."""
SENDERS = 8
GRACE = 2.0
"""Seconds that deliveries have to arrive when the server stops."""


def run(context: Context, stop: Event) -> None:
    """Until `stop` is set. What is on its way then has a moment to arrive; after that another process tries again."""
    sent: dict[Thread, UUID] = {}
    trouble = ""
    while not stop.is_set():
        sent = {thread: webhook for thread, webhook in sent.items() if thread.is_alive()}
        previous, trouble = trouble, ""
        try:
            for parcel in _take(context, set(sent.values()), SENDERS - len(sent)):
                thread = Thread(target=attempt, args=(context, parcel), name="webhook", daemon=True)
                thread.start()
                sent[thread] = parcel.webhook
        except Exception as error:  # the database may come back; without this loop nobody is told of anything
            trouble = f"{type(error).__name__}: {error}"
            if trouble != previous:
                log.warning("webhooks are held up", reason=trouble)
        stop.wait(INTERVAL if not sent else INTERVAL / 10)
    deadline = time.monotonic() + GRACE
    for thread in sent:
        thread.join(max(0.0, deadline - time.monotonic()))


def attempt(context: Context, parcel: outbox.Parcel) -> None:
    began = time.monotonic()
    answer = sending.post(
        parcel.url, f"msg_{parcel.id}", parcel.body, parcel.secrets, context.settings.webhook_networks
    )
    seconds = time.monotonic() - began
    context.metrics.webhooks.labels("good" if answer.good else "failed").inc()
    try:
        with context.sessions.begin() as session:
            outbox.record(session, parcel, answer, seconds)
    except Exception:  # its lease ends, and it is tried again
        log.exception("an attempt was not recorded", delivery=str(parcel.id))
    log.info("webhook", delivery=str(parcel.id), status=answer.status, error=answer.error, seconds=round(seconds, 3))


def _take(context: Context, busy: set[UUID], limit: int) -> list[outbox.Parcel]:
    with context.readers() as session:
        if not limit or not outbox.anything_due(session, busy):
            return []
    with context.sessions.begin() as session:
        return outbox.take(session, busy, limit)
