from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy.exc
from sqlalchemy import event, update

from redeem.contract import JobState
from service import database
from service.job_reads import JobReads
from service.settings import Settings
from service.tables import JobRow
from service.tenancy import Caller
from tests.service.running import Service, serving


class Held:
    """The queries of an engine: how many began, and they wait while `gate` is closed."""

    def __init__(self) -> None:
        self.began = 0
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("SELECT"):
            self.began += 1
            assert self.gate.wait(10)


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    with serving(settings) as running:
        yield running


@pytest.fixture
def reads(service: Service) -> Iterator[JobReads]:
    """With an engine of its own: nobody else asks by it."""
    engine = database.open_engine(service.parts.settings)
    yield JobReads(engine)
    engine.dispose()


@pytest.fixture
def queries(reads: JobReads) -> Iterator[Held]:
    held = Held()
    event.listen(reads.engine, "after_cursor_execute", held)
    yield held
    held.gate.set()


def owner(service: Service, job: UUID) -> Caller:
    return Caller(service.row(job).tenant_id, "test")


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


def test_who_asks_while_a_query_runs_is_answered_by_the_next(service: Service, reads: JobReads, queries: Held) -> None:
    jobs = [service.job() for _ in range(3)]
    caller = owner(service, jobs[0])

    async def ask() -> Any:
        queries.began = 0
        queries.gate.clear()
        first = asyncio.create_task(reads.read(caller, jobs[0]))
        await until(lambda: queries.began == 1)
        # What is written from here on the first query has not seen, and whoever asks from here on must see.
        with service.parts.engine.begin() as connection:
            connection.execute(update(JobRow).where(JobRow.id == jobs[0]).values(state=JobState.cancelled))
        others = [asyncio.create_task(reads.read(caller, job)) for job in [*jobs, *jobs]]
        await asyncio.sleep(0.05)
        queries.gate.set()
        return await asyncio.gather(first, *others)

    rows = asyncio.run(ask())
    assert [row.id for row in rows] == [jobs[0], *jobs, *jobs]
    assert [row.state for row in rows[:2]] == [JobState.queued, JobState.cancelled]
    assert queries.began == 2
    assert reads.answering is None


def test_a_job_of_another_tenant_is_not_there(service: Service, reads: JobReads) -> None:
    job = service.job()
    mine, other = owner(service, job), Caller(UUID(int=7), "other")

    async def ask() -> Any:
        return await asyncio.gather(reads.read(mine, job), reads.read(other, job), reads.read(mine, UUID(int=7)))

    found, *others = asyncio.run(ask())
    assert found.id == job
    assert others == [None, None]


def test_who_goes_away_takes_nobody_along(service: Service, reads: JobReads, queries: Held) -> None:
    job = service.job()
    caller = owner(service, job)

    async def ask() -> Any:
        queries.began = 0
        queries.gate.clear()
        gone, stays = (asyncio.create_task(reads.read(caller, job)) for _ in range(2))
        await until(lambda: queries.began == 1)
        gone.cancel()
        await asyncio.sleep(0)
        queries.gate.set()
        return await stays

    assert asyncio.run(ask()).id == job


def test_an_error_reaches_all_who_asked_and_none_who_ask_later(service: Service, reads: JobReads) -> None:
    job = service.job()
    caller = owner(service, job)

    async def ask() -> Any:
        return await asyncio.gather(*(reads.read(caller, job) for _ in range(3)), return_exceptions=True)

    with service.parts.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs RENAME TO hidden")
    assert {type(error) for error in asyncio.run(ask())} == {sqlalchemy.exc.OperationalError}
    with service.parts.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE hidden RENAME TO jobs")
    assert {row.id for row in asyncio.run(ask())} == {job}
