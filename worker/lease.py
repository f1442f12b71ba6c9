"""The worker's hold on a job, and all of its SQL: claim, sign of life, progress, cancel, end.

A claim is a compare-and-set with a fresh token. Every later write demands that token, so a worker that was taken for
dead and wakes up again changes nothing: it finds its lease lost and stops.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from obstore.store import ObjectStore
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from redeem.contract import Architecture, JobError, JobState, MethodRequest, Outcome, Policy, Preprocessing, Stage
from redeem.report import Artifact
from service import tracing
from service.blobs import still_there
from service.clock import from_now
from service.database import Sessions
from service.records import AGAIN, add_event, change
from service.settings import Settings
from service.tables import ArtifactRow, BundleRow, JobRow, ModelRow, UploadRow

PROGRESS_EVERY = 1.0  # seconds between two writes of a stage's progress


class Cancelled(Exception):
    """The client wants the job to end."""


class LeaseLost(Exception):
    """Somebody else has the job now, or it has ended: stop, and write nothing more."""


class FileGone(Exception):
    """A file of the job is not in the store any more when it is to be named. Another attempt makes it again."""


class Leaving(BaseException):
    """This process is told to end, in the middle of a job. No error of the job's, so nothing that handles those sees
    it."""


@dataclass
class Lease:
    job: UUID
    token: UUID
    sessions: Sessions
    settings: Settings
    tenant: UUID
    traceparent: str | None
    """Of the request that submitted the job."""
    cancelled: threading.Event = field(default_factory=threading.Event)
    lost: threading.Event = field(default_factory=threading.Event)
    written_at: float = 0.0


@dataclass(frozen=True)
class Order:
    """What a job demands. `weights`, `clean` and `triggered` are SHA-256 hashes of blobs in the store."""

    weights: str
    architecture: Architecture
    preprocessing: Preprocessing
    clean: str
    triggered: str | None
    target: int | list[int] | None
    purifier: MethodRequest
    detectors: list[MethodRequest]
    policy: Policy
    seed: int


def claim(job: UUID, sessions: Sessions, settings: Settings) -> Lease | None:
    """Take a queued job, or give None: somebody else has it, or it has ended. A message that comes twice ends here."""
    token = uuid4()
    with sessions.begin() as session:
        row = change(
            session,
            job,
            JobRow.state == JobState.queued,
            state=JobState.running,
            attempts=JobRow.attempts + 1,
            lease_token=token,
            lease_expires_at=from_now(settings.lease),
            started_at=func.coalesce(JobRow.started_at, from_now()),
            stage=None,
            progress=0.0,
        )
        if row is None:
            return None
        add_event(session, row, "state")
    return Lease(job, token, sessions, settings, row.tenant_id, row.traceparent)


def sign_of_life(lease: Lease) -> None:
    """Extend the lease, and learn whether the job is to end: `check` then says so."""
    _write(lease)


def check(lease: Lease) -> None:
    """Stop here if the job is not to go on: raises Cancelled or LeaseLost."""
    if lease.lost.is_set():
        raise LeaseLost(f"job {lease.job} is no longer this worker's")
    if lease.cancelled.is_set():
        raise Cancelled(f"job {lease.job} was cancelled")


@contextlib.contextmanager
def stage(lease: Lease, name: Stage) -> Iterator[None]:
    """Say that a stage has begun, and when it is over how many seconds it took."""
    _write(lease, event="stage", stage=name, progress=0.0)
    check(lease)
    started = time.monotonic()
    with tracing.span(name):
        yield
    taken = {name.value: round(time.monotonic() - started, 3)}
    _write(lease, timings={**timings(lease), **taken}, progress=1.0)
    check(lease)


def progress(lease: Lease, fraction: float) -> None:
    """Say how far the present stage is. Cheap to call often; raises Cancelled or LeaseLost."""
    check(lease)
    if time.monotonic() - lease.written_at >= PROGRESS_EVERY:
        lease.written_at = time.monotonic()
        _write(lease, event="progress", progress=min(1.0, fraction))


def order(lease: Lease) -> Order:
    """Read what the job demands."""
    with lease.sessions() as session:
        job = session.get_one(JobRow, lease.job)
        model = session.get_one(ModelRow, job.model_id)
        clean = session.get_one(BundleRow, job.clean_id)
        triggered = session.get_one(BundleRow, job.triggered_id) if job.triggered_id else None

        def sha256(row: ModelRow | BundleRow) -> str:
            return session.get_one(UploadRow, row.upload_id).sha256 or ""

        return Order(
            weights=sha256(model),
            architecture=Architecture.model_validate(model.architecture),
            preprocessing=Preprocessing.model_validate(model.preprocessing),
            clean=sha256(clean),
            triggered=sha256(triggered) if triggered else None,
            target=triggered.target if triggered else None,
            purifier=MethodRequest.model_validate(job.purifier),
            detectors=[MethodRequest.model_validate(detector) for detector in job.detectors],
            policy=Policy.model_validate(job.policy),
            seed=job.seed,
        )


def timings(lease: Lease) -> dict[str, float]:
    """Seconds that each finished stage took, those of earlier attempts included."""
    with lease.sessions() as session:
        return session.get_one(JobRow, lease.job).timings


def kept(lease: Lease, name: str) -> str | None:
    """The hash of what an earlier attempt at this job kept under `name`."""
    with lease.sessions() as session:
        query = select(ArtifactRow.sha256).where(ArtifactRow.job_id == lease.job, ArtifactRow.name == name)
        return session.scalar(query)


def keep(lease: Lease, artifact: Artifact) -> str | None:
    """Record what a later attempt at this job need not make again, in place of what was kept under its name before.
    Gives the hash of a blob that nobody needs any more."""
    superseded = kept(lease, artifact.name)
    _write(lease, artifacts=[_row(lease, artifact, internal=True)])
    return _unless_needed(lease, superseded)


def drop(lease: Lease, name: str) -> str | None:
    """Forget what was kept under `name`. Gives the hash of a blob that nobody needs any more."""
    superseded = kept(lease, name)
    _write(lease, forget=name)
    return _unless_needed(lease, superseded)


def _unless_needed(lease: Lease, sha256: str | None) -> str | None:
    """Two jobs may have kept the same bytes, and a client may have uploaded them."""
    with lease.sessions() as session:
        for table in (ArtifactRow, UploadRow):
            if sha256 is None or session.scalar(select(table.id).where(table.sha256 == sha256).limit(1)):
                return None
    return sha256


def succeed(
    lease: Lease, store: ObjectStore, verdict: Outcome, artifacts: Sequence[Artifact], gpu_bytes: int | None = None
) -> None:
    """End the job well: the artifacts, the verdict and the state in one transaction, which sees the files of all of
    them in the store, or raises FileGone. `gpu_bytes` is the most that the job had allocated on its GPU."""
    _write(
        lease,
        event="state",
        artifacts=[_row(lease, artifact, internal=False) for artifact in artifacts],
        there=store,
        state=JobState.succeeded,
        verdict=verdict,
        gpu_bytes=gpu_bytes,
        **_ended(),
    )


def fail(lease: Lease, error: JobError) -> None:
    _write(
        lease,
        event="state",
        state=JobState.failed,
        error_code=error.code,
        error_detail=error.detail.replace("\0", ""),  # names from an upload may hold it; PostgreSQL's texts may not
        error_hint=error.hint,
        **_ended(),
    )


def end_cancelled(lease: Lease) -> None:
    _write(lease, event="state", state=JobState.cancelled, **_ended())


def give_back(lease: Lease) -> None:
    """Queue the job again at once, as if this attempt had not been: its worker leaves, and the job is not to blame. The
    next one goes on from what was kept."""
    try:
        _write(lease)
        check(lease)
    except Cancelled:
        end_cancelled(lease)
    else:
        _write(lease, event="state", **AGAIN, **_FREED, attempts=JobRow.attempts - 1)


_FREED: dict[str, Any] = {"lease_token": None, "lease_expires_at": None}


def _ended() -> dict[str, Any]:
    return {"finished_at": from_now(), **_FREED}


def _row(lease: Lease, artifact: Artifact, *, internal: bool) -> ArtifactRow:
    return ArtifactRow(job_id=lease.job, internal=internal, **artifact.model_dump())


def _see_there(session: Session, store: ObjectStore, artifacts: Sequence[ArtifactRow]) -> None:
    """Raises FileGone where a file is not; the others stay until the transaction has ended. They are held in an order,
    so that no two workers wait for each other."""
    for sha256 in sorted({artifact.sha256 for artifact in artifacts}):
        if not still_there(session, store, sha256):
            raise FileGone(f"blob {sha256} is not in the store")


def _write(
    lease: Lease,
    *,
    event: str | None = None,
    artifacts: Sequence[ArtifactRow] = (),
    there: ObjectStore | None = None,
    forget: str | None = None,
    **values: Any,
) -> None:
    """The one way to change the job's row: only with the token, or LeaseLost. An `event` goes into its history. With a
    store, the artifacts are `there`, or FileGone. Every write is a sign of life, and learns of a cancellation."""
    values = {"lease_expires_at": from_now(lease.settings.lease), **values}
    with lease.sessions.begin() as session:
        row = change(session, lease.job, JobRow.lease_token == lease.token, **values)
        if row is None:
            lease.lost.set()
            raise LeaseLost(f"job {lease.job} is no longer this worker's")
        replaced = [artifact.name for artifact in artifacts] + ([forget] if forget else [])
        session.execute(delete(ArtifactRow).where(ArtifactRow.job_id == lease.job, ArtifactRow.name.in_(replaced)))
        if there is not None:
            _see_there(session, there, artifacts)
        session.add_all(artifacts)
        if event is not None:
            add_event(session, row, event)
    if row.cancel_requested:
        lease.cancelled.set()
