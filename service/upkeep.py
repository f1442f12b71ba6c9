"""What goes by itself, now and then: what is older than the retention, and bytes that nothing names. It has a thread of
its own, since looking through a large store takes its time; any number of them may run."""

from __future__ import annotations

from datetime import timedelta
from threading import Event

import structlog

from service import blobs, deletion
from service.context import Context

log = structlog.get_logger(__name__)

FIRST, INTERVAL = 60.0, 3600.0
"""Seconds before the first round, and between two."""


def run(context: Context, stop: Event) -> None:
    """Rounds until `stop` is set."""
    pause = FIRST
    while not stop.wait(pause):
        try:
            clean(context)
        except Exception:
            log.exception("upkeep failed")
        pause = INTERVAL


def clean(context: Context) -> int:
    """One round. Gives how many blobs went."""
    if context.settings.retention_days is not None:
        deletion.expire(context, timedelta(days=context.settings.retention_days))
    deletion.drop_internal(context, context.settings.blob_grace)
    return blobs.sweep(context)
