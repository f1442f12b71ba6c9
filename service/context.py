"""What a request works with. `create_app` builds it once; nothing else is global."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Annotated, cast
from uuid import UUID

from fastapi import Depends, Request
from obstore.store import ObjectStore
from sqlalchemy import Engine

from service import database, queue
from service.database import Sessions
from service.job_reads import JobReads
from service.metrics import Metrics
from service.notes import Notes
from service.queue import Queue
from service.readiness import Readiness
from service.settings import Settings
from service.store import open_store
from service.tenancy import Caller, bound

if TYPE_CHECKING:
    from service.receiving import Body


@dataclass(frozen=True, kw_only=True)
class Context:
    """The server's: its sessions reach every tenant's rows."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    readers: Sessions
    store: ObjectStore
    queue: Queue
    wake: Event = field(default_factory=Event)
    """Set when there is something to dispatch."""
    stopping: Event = field(default_factory=Event)
    """Set when the server was told to stop."""
    notes: Notes = field(default_factory=Notes)
    sending: Counter[str] = field(default_factory=Counter)
    """How many uploads each key is sending just now."""
    coming: dict[UUID, set[Body]] = field(default_factory=dict)
    """What is being received, by upload."""
    metrics: Metrics = field(default_factory=Metrics)
    readiness: Readiness = field(default_factory=Readiness)
    job_reads: JobReads


def open_context(settings: Settings, engine: Engine) -> Context:
    """The parts that the settings name. Whoever opens them disposes of the engine, and closes the queue."""
    return Context(
        settings=settings,
        engine=engine,
        sessions=database.sessions(engine),
        readers=database.readers(engine),
        store=open_store(settings),
        queue=queue.publisher(settings),
        job_reads=JobReads(engine),
    )


@dataclass(frozen=True, kw_only=True)
class RequestContext(Context):
    """One request's: its sessions reach what the caller's tenant owns, and nothing else."""

    caller: Caller


async def _server(request: Request) -> Context:
    return cast(Context, request.app.state.context)


async def _here(request: Request) -> RequestContext:
    context, caller = await _server(request), request.state.caller
    parts = vars(context) | {
        "sessions": bound(context.sessions, caller),
        "readers": bound(context.readers, caller),
    }
    return RequestContext(**parts, caller=caller)


Server = Annotated[Context, Depends(_server)]
"""For routes that answer without a key, and about the server alone."""
Here = Annotated[RequestContext, Depends(_here)]
