"""The worker's hold on a job, on a real SQLite file and a real PostgreSQL."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
import time_machine
from sqlalchemy import event

from redeem.contract import JobError, JobState, Outcome, Stage
from redeem.report import Artifact
from service import records
from service.blobs import hold
from service.clock import from_now
from service.database import open_engine, sessions
from service.store import open_store, put_bytes, remove
from service.tables import now
from tests.worker.conftest import Workplace
from worker import lease
from worker.heartbeat import heartbeat
from worker.lease import Cancelled, FileGone, Lease, LeaseLost

CONTENT = b"purified"
ARTIFACT = Artifact(
    name="purified.safetensors",
    media_type="application/octet-stream",
    size=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)
WRITES: dict[str, Callable[[Lease], object]] = {
    "stage": lambda held: lease.stage(held, Stage.load).__enter__(),
    "progress": lambda held: lease.progress(held, 0.5),
    "keep": lambda held: lease.keep(held, ARTIFACT),
    "succeed": lambda held: succeed(held, Outcome.passed),
    "fail": lambda held: lease.fail(held, JobError(code="code", detail="detail", hint="hint")),
    "end_cancelled": lease.end_cancelled,
    "give_back": lease.give_back,
}


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def job(workplace: Workplace) -> UUID:
    return workplace.job(workplace.model(b"weights"), workplace.bundle(b"images"))


def claim(workplace: Workplace, job: UUID) -> Lease:
    held = lease.claim(job, workplace.sessions, workplace.settings)
    assert held is not None
    return held


def succeed(held: Lease, verdict: Outcome) -> None:
    store = open_store(held.settings)
    put_bytes(store, CONTENT)
    lease.succeed(held, store, verdict, [ARTIFACT])


def never() -> None:
    raise AssertionError("the process was to be ended")


def wait_until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


def test_of_twenty_claims_at_once_one_wins(workplace: Workplace, job: UUID) -> None:
    start = threading.Barrier(20)

    def claimed(_: int) -> Lease | None:
        engine = open_engine(workplace.settings)  # each worker has its own
        start.wait()
        try:
            return lease.claim(job, sessions(engine), workplace.settings)
        finally:
            engine.dispose()

    with ThreadPoolExecutor(20) as pool:
        won = [held for held in pool.map(claimed, range(20)) if held is not None]
    assert len(won) == 1
    row = workplace.row(job)
    assert (row.state, row.attempts, row.lease_token) == ("running", 1, won[0].token)
    assert [event.state for event in workplace.events(job)] == ["queued", "running"]


@pytest.mark.parametrize("state", [state for state in JobState if state is not JobState.queued])
def test_only_a_queued_job_is_to_be_had(workplace: Workplace, job: UUID, state: JobState) -> None:
    with workplace.sessions.begin() as session:
        records.change(session, job, state=state)
    assert lease.claim(job, workplace.sessions, workplace.settings) is None
    assert workplace.row(job).attempts == 0
    assert len(workplace.events(job)) == 1


def test_a_job_that_is_not_there_is_not_to_be_had(workplace: Workplace) -> None:
    assert lease.claim(uuid4(), workplace.sessions, workplace.settings) is None


@pytest.mark.parametrize("minutes", [-5, 5])
def test_hosts_may_disagree_about_the_time(workplace: Workplace, job: UUID, minutes: int) -> None:
    """The worker's clock is wrong by this much, then the dispatcher's: a lease is over when the database says so."""

    def reaped() -> list[UUID]:
        with workplace.sessions.begin() as session:
            return [row.id for row in records.reap(session, workplace.settings.max_attempts)]

    wrong = time_machine.travel(now() + timedelta(minutes=minutes))
    with wrong:
        held = claim(workplace, job)
        lease.sign_of_life(held)
    assert reaped() == []
    lease.sign_of_life(held)
    with wrong:
        assert reaped() == []
    with workplace.sessions.begin() as session:
        records.change(session, job, lease_expires_at=from_now(timedelta(seconds=-1)))
    with wrong:
        assert reaped() == [job]


def test_a_cancellation_reaches_a_running_stage(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)

    def epochs() -> None:
        for _ in range(200):
            time.sleep(0.01)
            lease.check(held)

    threading.Timer(0.1, workplace.cancel, [job]).start()
    with heartbeat(held, never), pytest.raises(Cancelled), lease.stage(held, Stage.purify):
        epochs()
    lease.end_cancelled(held)
    row = workplace.row(job)
    assert (row.state, row.lease_token, row.lease_expires_at) == ("cancelled", None, None)
    assert row.finished_at is not None


def test_a_cancellation_is_seen_between_stages_without_waiting_for_a_heartbeat(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    workplace.cancel(job)
    with pytest.raises(Cancelled), lease.stage(held, Stage.fetch):
        pass


def test_a_heartbeat_outlives_a_database_that_is_away(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    before = workplace.row(job)
    engine = workplace.sessions.engine
    refused: list[object] = []

    def refuse(*connection: object) -> None:
        refused.append(connection)
        raise engine.dialect.loaded_dbapi.OperationalError("unable to connect")

    with heartbeat(held, never):
        event.listen(engine, "do_connect", refuse)
        engine.dispose()
        wait_until(lambda: len(refused) > 2)
        event.remove(engine, "do_connect", refuse)
        assert not held.lost.is_set()
        seen = workplace.row(job).lease_expires_at
        assert seen is not None
        wait_until(lambda: (workplace.row(job).lease_expires_at or seen) > seen)
    assert workplace.row(job).lease_token == before.lease_token


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("claimed_again", [False, True])
def test_who_lost_the_lease_writes_nothing(workplace: Workplace, job: UUID, name: str, claimed_again: bool) -> None:
    sleeper = claim(workplace, job)
    workplace.bury(job)
    if claimed_again:
        claim(workplace, job)
    before = _everything(workplace, job)
    with pytest.raises(LeaseLost):
        WRITES[name](sleeper)
    assert _everything(workplace, job) == before
    with pytest.raises(LeaseLost):
        lease.check(sleeper)


@pytest.mark.parametrize("name", WRITES)
def test_an_ended_job_is_not_written_again(workplace: Workplace, job: UUID, name: str) -> None:
    held = claim(workplace, job)
    succeed(held, Outcome.passed)
    before = _everything(workplace, job)
    with pytest.raises(LeaseLost):
        WRITES[name](held)
    assert _everything(workplace, job) == before


def _everything(workplace: Workplace, job: UUID) -> object:
    def columns(row: object) -> dict[str, object]:
        return {name: value for name, value in vars(row).items() if not name.startswith("_")}

    kept = [workplace.artifacts(job, internal=internal) for internal in (False, True)]
    return (
        columns(workplace.row(job)),
        [columns(event) for event in workplace.events(job)],
        [columns(row) for rows in kept for row in rows.values()],
    )


def test_a_stage_leaves_its_events_and_its_time(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    with lease.stage(held, Stage.fetch):
        time.sleep(0.05)
    with lease.stage(held, Stage.load):
        lease.progress(held, 0.25)
        lease.progress(held, 0.5)  # too soon after the last
        assert workplace.row(job).stage == "load"
    succeed(held, Outcome.inconclusive)
    seen = [(event.seq, event.type, event.state, event.stage, event.progress) for event in workplace.events(job)]
    assert seen == [
        (1, "state", "queued", None, 0.0),
        (2, "state", "running", None, 0.0),
        (3, "stage", "running", "fetch", 0.0),
        (4, "stage", "running", "load", 0.0),
        (5, "progress", "running", "load", 0.25),
        (6, "state", "succeeded", "load", 1.0),
    ]
    row = workplace.row(job)
    assert row.timings.keys() == {"fetch", "load"}
    assert 0.05 <= row.timings["fetch"] < 5
    assert (row.verdict, row.lease_token) == ("inconclusive", None)
    assert list(workplace.artifacts(job)) == ["purified.safetensors"]


def test_a_stage_that_raises_leaves_no_time(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    with pytest.raises(ZeroDivisionError), lease.stage(held, Stage.fetch):
        raise ZeroDivisionError
    assert lease.timings(held) == {}


def test_every_write_is_a_sign_of_life(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    with workplace.sessions.begin() as session:
        records.change(session, job, lease_expires_at=now())
    lease.keep(held, ARTIFACT)
    expires = workplace.row(job).lease_expires_at
    assert expires is not None
    assert expires > now() + workplace.settings.lease / 2


def test_what_a_stage_kept_outlives_the_attempt(workplace: Workplace, job: UUID) -> None:
    first = claim(workplace, job)
    assert lease.kept(first, ARTIFACT.name) is None
    lease.keep(first, ARTIFACT)
    workplace.bury(job)
    second = claim(workplace, job)
    assert lease.kept(second, ARTIFACT.name) == ARTIFACT.sha256
    assert workplace.row(job).attempts == 2
    assert list(workplace.artifacts(job)) == []  # not for the client


def test_no_file_is_published_that_goes_meanwhile(workplace: Workplace, job: UUID) -> None:
    """A collector found the same bytes old and unnamed just before the job wrote them, and removes them just after."""
    held, holding = claim(workplace, job), threading.Event()
    put_bytes(workplace.store, CONTENT)

    def collect() -> None:
        with workplace.sessions.begin() as session:
            hold(session, ARTIFACT.sha256)
            holding.set()
            time.sleep(0.3)
            remove(workplace.store, ARTIFACT.sha256)

    with ThreadPoolExecutor(1) as pool:
        collector = pool.submit(collect)
        assert holding.wait(5)
        with pytest.raises(FileGone):
            lease.succeed(held, workplace.store, Outcome.passed, [ARTIFACT])
        collector.result()
    assert workplace.row(job).state == "running"
    assert workplace.artifacts(job) == {}
    workplace.bury(job)
    succeed(claim(workplace, job), Outcome.passed)
    assert list(workplace.artifacts(job)) == [ARTIFACT.name]


def test_a_job_given_back_is_queued_at_once_and_its_attempt_does_not_count(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    lease.keep(held, ARTIFACT)
    lease.give_back(held)
    row = workplace.row(job)
    assert (row.state, row.attempts, row.stage, row.dispatched_at) == ("queued", 0, None, None)
    assert (row.lease_token, row.lease_expires_at) == (None, None)
    again = claim(workplace, job)
    assert lease.kept(again, ARTIFACT.name) == ARTIFACT.sha256


def test_a_cancelled_job_is_not_given_back_but_ended(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    workplace.cancel(job)
    lease.give_back(held)
    assert workplace.row(job).state == "cancelled"


def test_a_failure_is_recorded_with_its_code_and_hint(workplace: Workplace, job: UUID) -> None:
    held = claim(workplace, job)
    lease.fail(held, JobError(code="empty_bundle", detail="no\0 images", hint="Send some."))
    row = workplace.row(job)
    assert (row.state, row.error_code, row.error_hint) == ("failed", "empty_bundle", "Send some.")
    assert row.error_detail == "no images"  # PostgreSQL takes no NUL in a text


def test_the_order_names_what_the_client_sent(workplace: Workplace) -> None:
    clean, triggered = workplace.bundle(b"clean"), workplace.bundle(b"triggered", target=[1, 2])
    job = workplace.job(workplace.model(b"weights"), clean, triggered, seed=7)
    wanted = lease.order(claim(workplace, job))
    uploads = [wanted.weights, wanted.clean, wanted.triggered]
    assert uploads == [_sha256(content) for content in (b"weights", b"clean", b"triggered")]
    assert (wanted.target, wanted.seed, wanted.purifier.name) == ([1, 2], 7, "sage")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
