"""The history of a job as it is written: server-sent events, replayed from any point."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Header
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from redeem.contract import JobEvent, JobState
from service import records
from service.context import Context, Here
from service.errors import NotFound
from service.responses import refusals
from service.scopes import READ
from service.tables import JobRow

router = APIRouter(tags=["jobs"])

POLL = 0.5
"""Seconds between two looks for new events."""
BATCH = 500


def _existing(id: UUID, here: Here) -> UUID:
    # Looked up before the stream begins, while a 404 can still be told.
    with here.readers() as session:
        return records.find(session, JobRow, id).id


@router.get("/jobs/{id}/events", dependencies=READ, response_class=EventSourceResponse, responses=refusals(NotFound))
async def job_events(
    job: Annotated[UUID, Depends(_existing)],
    here: Here,
    last_event_id: Annotated[int, Header(ge=0, lt=2**31)] = 0,
) -> AsyncIterable[ServerSentEvent]:
    """Every event after `Last-Event-ID`, then every new one; the stream ends after the job's last."""
    seq = last_event_id
    while True:
        ended, events = await run_in_threadpool(_read, here, job, seq)
        for event in events:
            yield ServerSentEvent(data=event, event=event.type, id=str(event.seq))
            seq = event.seq
        if len(events) == BATCH:
            continue
        if ended:
            return
        await asyncio.sleep(POLL)


def _read(here: Context, job: UUID, seq: int) -> tuple[bool, list[JobEvent]]:
    """Whether the job has ended, and what was written after `seq`. A job ends and writes its last event in one
    transaction, and is looked at first, so nothing comes after the events of an ended job."""
    with here.readers() as session:
        ended = JobState(records.find(session, JobRow, job).state).terminal
        rows = records.events_after(session, job, seq, BATCH)
    return ended, [JobEvent.model_validate(row, from_attributes=True) for row in rows]
