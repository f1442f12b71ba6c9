"""Removes what nobody comes back for: unfinished uploads, and pieces of uploads that are not unfinished any more."""

from __future__ import annotations

import structlog
from sqlalchemy import select

from redeem.contract import UploadState
from service import parts, store
from service.context import Context
from service.tables import UploadRow

log = structlog.get_logger(__name__)


def tidy(context: Context) -> None:
    """One round. Rows go first and bytes after them, so a crash in between leaves bytes for the next round, and never a
    row without its bytes."""
    _expire(context)
    _sweep(context)


def _expire(context: Context) -> None:
    abandoned = parts.abandoned(context.settings.upload_expiry)
    with context.readers() as session:
        ids = list(session.scalars(select(UploadRow.id).where(abandoned)))
    for id in ids:
        with context.sessions.begin() as session:
            if parts.remove(session, id, abandoned):
                log.info("an unfinished upload expired", upload=str(id))


def _sweep(context: Context) -> None:
    there = set(store.with_parts(context.store))
    if not there:
        return
    with context.readers() as session:
        unfinished = set(session.scalars(select(UploadRow.id).where(UploadRow.state == UploadState.open)))
    for id in there - unfinished:
        store.discard_parts(context.store, id)
