"""Is everything there that this server needs? Whoever asks has no key, and a look may take seconds when a part does not
answer: so there is one look at a time, in one thread, however many ask."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from fastapi.concurrency import run_in_threadpool

from service import migrate, queue, store

if TYPE_CHECKING:
    from service.context import Context

log = structlog.get_logger(__name__)

Checks = dict[str, str]
"""`ok` or `failed` of each part."""


@dataclass
class Readiness:
    """Belongs to the event loop. Nobody gets what a look found that began before he asked."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    next: asyncio.Task[Checks] | None = None
    """The look that has not begun yet."""

    async def look(self, context: Context) -> Checks:
        if self.next is None:
            # In a context of its own, and not ended with who asked first: it is for others too.
            self.next = asyncio.create_task(self._look(context), context=contextvars.Context())
        return await asyncio.shield(self.next)

    async def _look(self, context: Context) -> Checks:
        async with self.turn:
            self.next = None
            return await run_in_threadpool(checks, context)


def checks(context: Context) -> Checks:
    parts = (_database, _migrations, _store, _broker)
    return {part.__name__.lstrip("_"): _result(part, context) for part in parts}


def _result(check: Callable[[Context], None], context: Context) -> str:
    try:
        check(context)
    except Exception as error:
        log.warning("not ready", check=check.__name__.lstrip("_"), error=str(error))
        return "failed"
    return "ok"


def _database(context: Context) -> None:
    with context.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")


def _migrations(context: Context) -> None:
    with context.engine.connect() as connection:
        if not migrate.fits(connection):
            raise RuntimeError("the database is not at the newest migration")


def _store(context: Context) -> None:
    store.check(context.store)


def _broker(context: Context) -> None:
    queue.waiting(context.queue)
