"""What is remembered while requests are answered, and written beside them: last uses of keys, and refusals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from service import audit
from service.database import Sessions
from service.tables import ApiKey

log = structlog.get_logger(__name__)

EVERY = 60.0
"""Seconds between two writes."""
MOST_REFUSALS = 100
"""So many are told in the audit log between two writes, and of the others how many there were: whoever is refused all
the time shall not fill the disk."""


@dataclass
class Notes:
    uses: dict[UUID, datetime] = field(default_factory=dict)
    """When each key was last used."""
    refusals: list[audit.Entry] = field(default_factory=list)
    untold: int = 0
    """Refusals beyond those."""

    def refused(self, entry: audit.Entry) -> None:
        if len(self.refusals) < MOST_REFUSALS:
            self.refusals.append(entry)
        else:
            self.untold += 1


@contextlib.asynccontextmanager
async def written(sessions: Sessions, notes: Notes) -> AsyncIterator[None]:
    """Write notes now and then until the context ends, and then once more."""
    task = asyncio.create_task(_write_now_and_then(sessions, notes))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await run_in_threadpool(_write, sessions, notes)


async def _write_now_and_then(sessions: Sessions, notes: Notes) -> None:
    while True:
        await asyncio.sleep(EVERY)
        await run_in_threadpool(_write, sessions, notes)


def _write(sessions: Sessions, notes: Notes) -> None:
    uses, refusals, untold = notes.uses, notes.refusals, notes.untold
    notes.uses, notes.refusals, notes.untold = {}, [], 0
    if untold:
        refusals.append(audit.Entry(None, "unknown", "request.refused", f"{untold} more requests", "refused"))
    if not uses and not refusals:
        return
    try:
        with sessions.begin() as session:
            for key, at in uses.items():
                session.execute(update(ApiKey).where(ApiKey.id == key).values(last_used_at=at))
            for entry in refusals:
                audit.add(session, entry)
    except SQLAlchemyError as error:
        log.warning("last uses of keys and refusals were not written", error=type(error).__name__)
