"""What a request works with. `create_app` builds it once; nothing else is global."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event
from typing import Annotated, cast

from fastapi import Depends, Request
from obstore.store import ObjectStore
from sqlalchemy import Engine

from service.database import Sessions
from service.queue import Queue
from service.settings import Settings


@dataclass(frozen=True)
class Context:
    settings: Settings
    engine: Engine
    sessions: Sessions
    readers: Sessions
    store: ObjectStore
    queue: Queue
    wake: Event = field(default_factory=Event)
    """Set when there is something to dispatch."""


async def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


Here = Annotated[Context, Depends(_context)]
