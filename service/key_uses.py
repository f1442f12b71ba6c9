"""When each key was last used: remembered while requests are answered, written beside them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError

from service.database import Sessions
from service.tables import ApiKey

log = structlog.get_logger(__name__)

EVERY = 60.0
"""Seconds between two writes."""

Uses = dict[UUID, datetime]
"""The last use of each key since the last write."""


@contextlib.asynccontextmanager
async def noted(sessions: Sessions, uses: Uses) -> AsyncIterator[None]:
    """Write `uses` now and then until the context ends, and then once more."""
    task = asyncio.create_task(_write_now_and_then(sessions, uses))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await run_in_threadpool(_write, sessions, uses)


async def _write_now_and_then(sessions: Sessions, uses: Uses) -> None:
    while True:
        await asyncio.sleep(EVERY)
        await run_in_threadpool(_write, sessions, uses)


def _write(sessions: Sessions, uses: Uses) -> None:
    if not uses:
        return
    taken = dict(uses)
    uses.clear()  # a use between the two lines is one within the same moment, and another will come
    try:
        with sessions.begin() as session:
            for key, at in taken.items():
                session.execute(update(ApiKey).where(ApiKey.id == key).values(last_used_at=at))
    except SQLAlchemyError as error:
        log.warning("the last uses of keys were not written", error=type(error).__name__)
