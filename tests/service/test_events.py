from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import event

from redeem.contract import JobEvent
from service.job_reads import TURN
from service.routes import events as route
from service.tables import JobEventRow
from tests.service.running import Service, problem


def follow(service: Service, job: UUID, last: int | None = None) -> list[tuple[str, str, dict[str, Any]]]:
    """(id, type, data) of each event until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": str(last)}
    with service.http.stream("GET", f"/v1/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = answer.read().decode()
    fields = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n") if block]
    return [(event["id"], event["event"], json.loads(event["data"])) for event in fields]


def test_the_whole_history_is_told_and_the_stream_ends(service: Service) -> None:
    job = service.job()
    service.change(job, state="running", stage="purify")
    service.change(job, progress=0.5)
    service.change(job, state="succeeded", progress=1.0)
    told = follow(service, job)
    assert [(id, type) for id, type, _ in told] == [("1", "state"), ("2", "state"), ("3", "progress"), ("4", "state")]
    assert [data["state"] for *_, data in told] == ["queued", "running", "running", "succeeded"]
    assert JobEvent.model_validate(told[2][2]).progress == 0.5


def test_a_reader_goes_on_where_it_broke_off(service: Service) -> None:
    job = service.job()
    service.change(job, state="running")
    service.change(job, state="failed")
    assert [id for id, *_ in follow(service, job, last=2)] == ["3"]
    assert follow(service, job, last=3) == []


def test_events_come_while_they_happen(service: Service) -> None:
    job = service.job()
    threading.Timer(0.3, service.change, (job,), {"state": "running"}).start()
    threading.Timer(1.2, service.change, (job,), {"state": "cancelled"}).start()
    assert [data["state"] for *_, data in follow(service, job)] == ["queued", "running", "cancelled"]


@pytest.fixture
def stopping(service: Service) -> Iterator[threading.Event]:
    yield service.parts.stopping
    service.parts.stopping.clear()


def test_who_follows_is_let_go_when_the_server_stops(service: Service, stopping: threading.Event) -> None:
    job = service.job()
    threading.Timer(0.7, stopping.set).start()
    assert [id for id, *_ in follow(service, job)] == ["1"]
    service.change(job, state="running")
    assert [id for id, *_ in follow(service, job, last=1)] == ["2"]  # what there is is told all the same


def test_a_long_history_comes_whole(service: Service) -> None:
    job = service.job()
    count = 2 * route.BATCH
    with service.parts.sessions.begin() as session:
        session.add_all(
            JobEventRow(job_id=job, seq=seq, type="progress", state="running", progress=seq / count)
            for seq in range(2, count)
        )
    service.change(job, state="succeeded")
    assert [int(id) for id, *_ in follow(service, job)] == list(range(1, count + 1))


def test_what_cannot_be_followed_is_refused_before_the_stream(service: Service) -> None:
    problem(service.http.get(f"/v1/jobs/{uuid4()}/events"), 404, "not_found")
    for last in ("-1", "x", str(2**70)):
        answer = service.http.get(f"/v1/jobs/{service.job()}/events", headers={"Last-Event-ID": last})
        problem(answer, 422, "invalid_request")


def test_however_many_follow_the_database_is_asked_little(service: Service) -> None:
    job, followers, looks = service.job(), 100, []

    def count(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "FROM jobs" in statement and " IN (" in statement:
            looks.append(statement)

    async def follow_all() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=service.http.headers, limits=limits, timeout=60) as http:
            read = [asyncio.create_task(http.get(f"{service.url}/v1/jobs/{job}/events")) for _ in range(followers)]
            await asyncio.sleep(2)
            event.listen(service.parts.engine, "before_cursor_execute", count)
            await asyncio.sleep(4 * TURN)
            event.remove(service.parts.engine, "before_cursor_execute", count)
            assert (await http.get(f"{service.url}/v1/models")).status_code == 200
            await asyncio.to_thread(service.change, job, state="cancelled")
            return [(await answer).text for answer in read]

    told = asyncio.run(follow_all())
    assert len(looks) < followers / 2  # each by itself would look four times
    assert {text.count("event: state") for text in told} == {2}
