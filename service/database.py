"""The engine: SQLite set up so that several processes can share it, or PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc
from sqlalchemy.orm import Session

from service.settings import Settings

PATIENCE = timedelta(seconds=10)
"""How long a change of a SQLite database waits for others."""


@dataclass(frozen=True)
class Sessions:
    """Where sessions come from: `with sessions() as session` to look, `with sessions.begin() as session` to change, all
    or nothing. They reach every tenant's rows, unless `service.tenancy` bound them to one."""

    engine: Engine
    kind: type[Session] = Session
    info: Mapping[str, object] = field(default_factory=dict)
    turn: AbstractContextManager[object] = field(default_factory=nullcontext)
    """Held by who changes something."""

    def __call__(self) -> Session:
        return self.kind(self.engine, expire_on_commit=False, info=dict(self.info))

    @contextmanager
    def begin(self) -> Iterator[Session]:
        with self.turn, self() as session, session.begin():
            yield session


class Turn:
    """One thread after the other. SQLite has one writer at a time and no queue: who waits asks again and again, ever
    more rarely, and of many threads some would wait for seconds while others came and went."""

    def __init__(self) -> None:
        self.lock = Lock()

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=PATIENCE.total_seconds()):
            raise exc.TimeoutError("others have been writing to the database all the time")

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def open_engine(settings: Settings) -> Engine:
    # One connection for each thread that answers requests, and some for the dispatcher and the health checks. SQLite's
    # are kept: they cost a file and no server's memory, and opening one costs more than most of what it is opened for.
    kept = 50 if settings.database.startswith("sqlite") else 5
    engine = create_engine(settings.database, pool_pre_ping=True, pool_size=kept, max_overflow=50 - kept)
    if engine.dialect.name == "sqlite":
        settings.data.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _on_connect)
        event.listen(engine, "begin", _on_begin)
    return engine


def sessions(engine: Engine) -> Sessions:
    return Sessions(engine, turn=Turn()) if engine.dialect.name == "sqlite" else Sessions(engine)


def readers(engine: Engine) -> Sessions:
    """Sessions that only read: on SQLite they neither wait for a writer nor make one wait."""
    return Sessions(engine.execution_options(postgresql_readonly=True))


def _on_connect(connection: Any, record: object) -> None:
    connection.isolation_level = None  # transactions begin where _on_begin says, not where the driver guesses
    for pragma in (f"busy_timeout={PATIENCE / timedelta(milliseconds=1):.0f}", "synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


def _write_ahead(connection: Any) -> None:
    """Switch the file to WAL, once in its life. Unlike everything else the switch does not wait for others: when two
    processes open a new file at once, one is told that it is locked, and finds the switch made a moment later."""
    for pause in (0.01 * 2**attempt for attempt in range(10)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            time.sleep(pause)
        else:
            return
    connection.execute("PRAGMA journal_mode=WAL")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once with "database is locked" when another one wrote
    # in between, whatever busy_timeout says; taking the write lock at the start makes it wait instead.
    reads = connection.get_execution_options().get("postgresql_readonly", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
