"""Jobs that are asked for at once are read at once: while a query runs, those who ask wait for the next, which answers
all of them. However many poll, the database has one query at a time, and they hold one thread."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Engine, Row

from service import tenancy
from service.tenancy import Caller

MOST = 500
"""Jobs in one query."""
TURN = 0.5
"""Seconds between two looks at a job that somebody waits for."""


async def next_turn(at_most: float = TURN) -> None:
    """Sleep until the next look. Whoever waits looks at the same moment, so that one query answers all."""
    await asyncio.sleep(min(at_most, TURN - asyncio.get_running_loop().time() % TURN))


@dataclass
class JobReads:
    """Belongs to the event loop. Nobody gets what a query read that began before he asked."""

    engine: Engine
    asked: list[tuple[UUID, UUID, asyncio.Future[Row[Any] | None]]] = field(default_factory=list)
    """Tenant, job, and where the answer goes."""
    answering: asyncio.Task[None] | None = None

    async def read(self, caller: Caller, id: UUID) -> Row[Any] | None:
        """A job, if it is the caller's tenant's. Raises what the database raises."""
        answer: asyncio.Future[Row[Any] | None] = asyncio.get_running_loop().create_future()
        self.asked.append((caller.tenant, id, answer))
        if self.answering is None:
            # In a context of its own: it works for others too, and must not log or trace as the one who came first.
            self.answering = asyncio.create_task(self._answer(), context=contextvars.Context())
        return await answer

    async def _answer(self) -> None:
        while self.asked:
            asked, self.asked = self.asked[:MOST], self.asked[MOST:]
            waiting = [one for one in asked if not one[2].done()]  # whoever went away has his cancelled
            try:
                rows = await run_in_threadpool(tenancy.read_jobs, self.engine, {id for _, id, _ in waiting})
            except Exception as error:
                for _, _, answer in waiting:
                    if not answer.done():
                        answer.set_exception(error)
            else:
                for tenant, id, answer in waiting:
                    if not answer.done():
                        answer.set_result(rows.get((tenant, id)))
        self.answering = None
