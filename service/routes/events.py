"""The history of a job as it is written: server-sent events, replayed from any point."""

from __future__ import annotations

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
from service.job_reads import next_turn
from service.responses import refusals
from service.scopes import READ
from service.tables import JobRow

router = APIRouter(tags=["jobs"])

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
    """Every event after `Last-Event-ID`, then every new one; the stream ends after the job's last, and when the server
    stops: ask again then, with the last id."""
    seq, seen = last_event_id, None
    while True:
        row = await here.job_reads.read(here.caller, job)
        if row is None:  # deleted meanwhile
            return
        # An event is written together with a change of its job's row, so while that stays there is none. A job ends and
        # writes its last event in one transaction, and its row is read first: after these events nothing comes.
        while row != seen:
            events = await run_in_threadpool(_after, here, job, seq)
            for event in events:
                yield ServerSentEvent(data=event, event=event.type, id=str(event.seq))
                seq = event.seq
            if len(events) < BATCH:
                seen = row
        if JobState(row.state).terminal or here.stopping.is_set():
            return
        await next_turn()


def _after(here: Context, job: UUID, seq: int) -> list[JobEvent]:
    with here.readers() as session:
        rows = records.events_after(session, job, seq, BATCH)
        return [JobEvent.model_validate(row, from_attributes=True) for row in rows]
