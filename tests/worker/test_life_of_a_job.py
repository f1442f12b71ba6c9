"""The life of jobs under every order of steps, with crashes between any two, on SQLite and PostgreSQL: hypothesis plays
clients, dispatchers, workers, a broker that loses and repeats messages, and time."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as play
from sqlalchemy import delete, select

from redeem.contract import JobError, JobState, Outcome, Stage
from service import records
from service.clock import from_now
from service.errors import JobFinished, JobNotFinished
from service.settings import Settings
from service.tables import ArtifactRow, BundleRow, JobEventRow, JobRow, ModelRow, UploadRow
from tests.worker.conftest import Workplace, working
from worker import lease
from worker.lease import Cancelled, Lease, LeaseLost

MAX_ATTEMPTS = 3
LEGAL = {
    None: {"queued"},
    "queued": {"running", "cancelled"},
    "running": {"succeeded", "failed", "cancelled", "queued"},
    "succeeded": set[str](),
    "failed": {"queued"},  # only when somebody wants it tried again
    "cancelled": {"queued"},
}
TERMINAL = {"succeeded", "failed", "cancelled"}


class Jobs(RuleBasedStateMachine):
    """What must be, by `holder`: the one lease of a job that may still write, as the rules say it."""

    place: Workplace
    model: UUID
    clean: UUID

    messages = Bundle("messages")
    jobs = Bundle("jobs")
    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.holder: dict[UUID, Lease | None] = {}
        self.retried: dict[UUID, int] = {}
        self.ended: dict[UUID, tuple[str, object]] = {}

    @initialize()
    def start(self) -> None:
        self.model, self.clean = self.place.model(b"weights"), self.place.bundle(b"images")

    @rule(target=jobs)
    def submit(self) -> UUID:
        job = self.place.job(self.model, self.clean)
        self.holder[job], self.retried[job] = None, 0
        return job

    @rule(target=messages, marked=st.booleans())
    def dispatch(self, marked: bool) -> object:
        """A dispatcher sends what was never sent; one that dies before it says so has sent it all the same."""
        with self.place.sessions() as session:
            waiting = records.never_sent(session, None, 1000)
        for job in waiting if marked else ():
            with self.place.sessions.begin() as session:
                records.mark_sent(session, job)
        return multiple(*waiting)

    @rule(target=leases, job=messages)
    def deliver(self, job: UUID) -> object:
        """A message reaches a worker; it stays, as one that comes twice."""
        was = self.place.row(job).state
        held = lease.claim(job, self.place.sessions, self.place.settings)
        assert (held is not None) == (was == "queued")
        if held is None:
            return multiple()
        self.holder[job] = held
        return held

    @rule(target=leases)
    def submit_and_claim(self) -> object:
        """The usual way in one step, so that the rare ways are tried often."""
        return self.deliver(self.submit())

    @rule(job=consumes(messages))
    def lose(self, job: UUID) -> None:
        """The broker forgot it; nobody knows."""

    @rule(held=consumes(leases))
    def die(self, held: Lease) -> None:
        """A worker is gone without a word."""

    @rule(held=leases)
    def outlast(self, held: Lease) -> None:
        """The lease of a job is over, its worker dead or only asleep."""
        over = {"lease_expires_at": from_now(timedelta(seconds=-1))}
        with self.place.sessions.begin() as session:
            records.change(session, held.job, JobRow.state == JobState.running, **over)

    @rule()
    def reap(self) -> None:
        with self.place.sessions.begin() as session:
            reaped = records.reap(session, MAX_ATTEMPTS)
        for row in reaped:
            self.holder[row.id] = None

    @rule(job=jobs)
    def cancel(self, job: UUID) -> None:
        was = self.place.row(job).state
        if was in ("succeeded", "failed"):
            with pytest.raises(JobFinished):
                self.place.cancel(job)
        else:
            self.place.cancel(job)

    @rule(job=jobs)
    def retry(self, job: UUID) -> None:
        was = self.place.row(job).state
        with self.place.sessions.begin() as session:
            if was in ("failed", "cancelled"):
                records.retry(session, job)
                self.retried[job] += 1
                del self.ended[job]
            else:
                with pytest.raises((JobFinished, JobNotFinished)):
                    records.retry(session, job)

    @rule(
        held=leases,
        how=st.sampled_from(["heartbeat", "stage", "progress", "succeed", "fail", "end_cancelled", "give_back"]),
    )
    def work(self, held: Lease, how: str) -> None:
        """A step of a worker, perhaps of one that was taken for dead: it writes only if the job is still its own."""
        mine = self.holder[held.job] is held
        told = self.place.row(held.job).cancel_requested
        try:
            self._step(held, how)
        except LeaseLost:
            assert not mine
        except Cancelled:
            assert mine
            assert told
        else:
            assert mine
            if how in ("succeed", "fail", "end_cancelled", "give_back"):
                self.holder[held.job] = None

    def _step(self, held: Lease, how: str) -> None:
        if how == "heartbeat":
            lease._write(held)
        elif how == "stage":
            lease.stage(held, Stage.purify).__enter__()
        elif how == "progress":
            held.written_at = 0.0
            lease.progress(held, 0.5)
        elif how == "succeed":
            lease.succeed(held, self.place.store, Outcome.passed, [])
        elif how == "fail":
            lease.fail(held, JobError(code="code", detail="detail", hint="hint"))
        elif how == "give_back":
            lease.give_back(held)
        else:
            lease.end_cancelled(held)

    @invariant()
    def everything_is_as_it_must_be(self) -> None:
        rows, histories = self._read_all()
        for job, holder in self.holder.items():
            row, history = rows[job], histories[job]
            assert row.lease_token == (holder and holder.token)
            assert (row.state == "running") == (holder is not None) == (row.lease_expires_at is not None)
            assert (row.finished_at is not None) == (row.state in TERMINAL)
            assert row.attempts <= MAX_ATTEMPTS
            steps = list(zip([None, *history], history, strict=False))
            assert all(after == before or after in LEGAL[before] for before, after in steps), history
            assert sum(before in TERMINAL and after == "queued" for before, after in steps) == self.retried[job]
            if row.state in TERMINAL:
                assert self.ended.setdefault(job, (row.state, row.finished_at)) == (row.state, row.finished_at)

    def _read_all(self) -> tuple[dict[UUID, JobRow], dict[UUID, list[str]]]:
        """The jobs, and the states of each in its history: after every step, so in two queries for all of them."""
        histories = defaultdict[UUID, list[str]](list)
        with self.place.sessions() as session:
            rows = {row.id: row for row in session.scalars(select(JobRow))}
            for event in session.execute(select(JobEventRow.job_id, JobEventRow.state).order_by(JobEventRow.seq)):
                histories[event.job_id].append(event.state)
        return rows, histories

    def teardown(self) -> None:
        with self.place.sessions.begin() as session:
            for row in (JobEventRow, ArtifactRow, JobRow, ModelRow, BundleRow, UploadRow):
                session.execute(delete(row))


@pytest.mark.parametrize("examples", [15, pytest.param(2000, marks=pytest.mark.slow)])
def test_only_legal_lives_are_led(either_database: str, examples: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = Settings(data=Path(folder), database_url=either_database, lease=timedelta(minutes=5), broker_url="")
        with working(options) as Jobs.place:
            play(
                Jobs,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
