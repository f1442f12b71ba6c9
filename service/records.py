"""The queries. Every change of a job's state is a compare-and-set, and writes its line of history in the same
transaction."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, ScalarSelect, and_, func, or_, select, update
from sqlalchemy.orm import Session

from redeem.contract import JobRequest, JobState, UploadKind, UploadState
from service import audit, tracing
from service.clock import from_now
from service.errors import JobFinished, JobNotFinished, NotFound, UnknownReference, UploadIncomplete, WrongKind
from service.paging import Listing, created_between, make_cursor, read_cursor
from service.tables import ArtifactRow, BundleRow, DeliveryRow, JobEventRow, JobRow, ModelRow, UploadRow, WebhookRow
from service.webhooks import outbox

Row = TypeVar("Row", UploadRow, ModelRow, BundleRow, JobRow, WebhookRow, DeliveryRow)

NAMES = {
    UploadRow: "upload",
    ModelRow: "model",
    BundleRow: "bundle",
    JobRow: "job",
    WebhookRow: "webhook",
    DeliveryRow: "delivery",
}


def find(session: Session, table: type[Row], id: UUID) -> Row:
    row = session.get(table, id)
    if row is None:
        raise NotFound(f"There is no {NAMES[table]} {id}.")
    return row


def page(
    session: Session, table: type[Row], listing: Listing, *conditions: ColumnElement[bool]
) -> tuple[list[Row], str | None]:
    """The newest rows first, and the cursor of the next page. Ids are UUIDv7, so their order is that of creation."""
    query = select(table).where(*created_between(table, listing), *conditions)
    if listing.cursor is not None:
        query = query.where(table.id < read_cursor(listing.cursor))
    rows = list(session.scalars(query.order_by(table.id.desc()).limit(listing.limit + 1)))
    more = len(rows) > listing.limit
    return rows[: listing.limit], make_cursor(rows[listing.limit - 1].id) if more else None


def with_hash(sha256: str) -> ScalarSelect[UUID]:
    """The uploads that have these bytes."""
    return select(UploadRow.id).where(UploadRow.sha256 == sha256).scalar_subquery()


def of_model(sha256: str) -> ColumnElement[bool]:
    """Jobs whose suspect has these bytes."""
    return JobRow.model_id.in_(select(ModelRow.id).where(ModelRow.upload_id.in_(with_hash(sha256))))


def referenced(session: Session, table: type[Row], id: UUID) -> Row:
    """What a request's body names."""
    row = session.get(table, id)
    if row is None:
        raise UnknownReference(f"There is no {NAMES[table]} {id}.")
    return row


def complete_upload_of(session: Session, id: UUID, kind: UploadKind) -> UploadRow:
    upload = referenced(session, UploadRow, id)
    if upload.kind != kind:
        raise WrongKind(f"Upload {id} is of kind {upload.kind}, and a {kind} was expected.")
    if upload.state != UploadState.complete:
        raise UploadIncomplete(f"Upload {id} has no bytes yet.")
    return upload


def add(session: Session, row: Row) -> Row:
    session.add(row)
    session.flush()
    audit.note(session, f"{NAMES[type(row)]}.created", row.id)
    return row


# Jobs ------------------------------------------------------------------------------------------------------------


def submit(session: Session, request: JobRequest) -> JobRow:
    row = JobRow(
        model_id=request.model,
        clean_id=request.clean,
        triggered_id=request.triggered,
        purifier=request.purifier.model_dump(mode="json"),
        detectors=[detector.model_dump(mode="json") for detector in request.detectors],
        policy=request.policy.model_dump(mode="json"),
        seed=request.seed,
        priority=request.priority,
        device_class=request.device_class,
        labels=request.labels,
        webhook_id=request.webhook,
        traceparent=tracing.traceparent(),
    )
    job = add(session, row)
    add_event(session, job, "state")
    return job


def change(session: Session, job: UUID, *conditions: ColumnElement[bool], **values: Any) -> JobRow | None:
    """Compare and set: the job as it is after the change, or None where a condition did not hold."""
    return session.scalar(
        update(JobRow)
        .where(JobRow.id == job, *conditions)
        .values(**values)
        .returning(JobRow)
        .execution_options(synchronize_session=False, populate_existing=True)
    )


def add_event(session: Session, job: JobRow, type: str) -> JobEventRow:
    """Write the job's present state, stage and progress into its history, and its end into the outbox. Call it in the
    transaction of the change, after it: the changed row is locked then, and nobody else takes the same `seq`."""
    last = session.scalar(select(func.max(JobEventRow.seq)).where(JobEventRow.job_id == job.id)) or 0
    event = JobEventRow(job_id=job.id, seq=last + 1, type=type, state=job.state, stage=job.stage, progress=job.progress)
    session.add(event)
    session.flush()
    if type == "state":
        outbox.tell_of_end(session, job)
    return event


def events_after(session: Session, job: UUID, seq: int, limit: int) -> list[JobEventRow]:
    query = select(JobEventRow).where(JobEventRow.job_id == job, JobEventRow.seq > seq)
    return list(session.scalars(query.order_by(JobEventRow.seq).limit(limit)))


def cancel(session: Session, id: UUID) -> JobRow:
    """A queued job ends at once; a running one is told, and its worker ends it. Asking again changes nothing."""
    job = change(
        session,
        id,
        JobRow.state == JobState.queued,
        state=JobState.cancelled,
        cancel_requested=True,
        finished_at=from_now(),
    )
    if job is not None:
        add_event(session, job, "state")
        audit.note(session, "job.cancelled", id)
        return job
    asked = JobRow.cancel_requested.is_(False)
    job = change(session, id, JobRow.state == JobState.running, asked, cancel_requested=True)
    if job is not None:
        audit.note(session, "job.cancelled", id)
        return job
    job = find(session, JobRow, id)
    if job.state in (JobState.succeeded, JobState.failed):
        raise JobFinished(f"The job has {job.state}; there is nothing to cancel.")
    return job


def retry(session: Session, id: UUID) -> JobRow:
    """Queue a job again that failed or was cancelled. It counts its attempts anew, and its next worker skips the stages
    whose results are kept. Whoever held it before has lost its lease."""
    job = change(
        session,
        id,
        JobRow.state.in_((JobState.failed, JobState.cancelled)),
        state=JobState.queued,
        stage=None,
        progress=0.0,
        cancel_requested=False,
        error_code=None,
        error_detail=None,
        error_hint=None,
        attempts=0,
        dispatched_at=None,
        finished_at=None,
    )
    if job is not None:
        add_event(session, job, "state")
        audit.note(session, "job.retried", id)
        return job
    job = find(session, JobRow, id)
    if job.state == JobState.succeeded:
        raise JobFinished("The job has succeeded; there is nothing to try again.")
    raise JobNotFinished(f"The job is {job.state}; only one that failed or was cancelled can be tried again.")


def artifacts(session: Session, job: UUID) -> list[ArtifactRow]:
    """The files for the client; what stages keep for themselves is not among them."""
    query = select(ArtifactRow).where(ArtifactRow.job_id == job, ArtifactRow.internal.is_(False))
    return list(session.scalars(query.order_by(ArtifactRow.name)))


# Dispatching -----------------------------------------------------------------------------------------------------


def classes_queued(session: Session) -> list[str | None]:
    """The device classes that queued jobs are of, each once."""
    return list(session.scalars(select(JobRow.device_class).where(JobRow.state == JobState.queued).distinct()))


def never_sent(session: Session, device_class: str | None, limit: int) -> list[UUID]:
    """Queued jobs of a class whose id is not on its queue yet, the next ones first: each tenant's by priority and age,
    and the tenants in turns, those first that have the fewest under way. A hundred jobs of one do not hold up
    another's."""
    under_way = (
        select(JobRow.tenant_id, func.count().label("jobs"))
        .where(
            JobRow.device_class == device_class,
            or_(
                JobRow.state == JobState.running,
                and_(JobRow.state == JobState.queued, JobRow.dispatched_at.is_not(None)),
            ),
        )
        .group_by(JobRow.tenant_id)
        .subquery()
    )
    place = func.row_number().over(partition_by=JobRow.tenant_id, order_by=(JobRow.priority.desc(), JobRow.id))
    waiting = (
        select(JobRow.id, JobRow.tenant_id, place.label("place"))
        .where(JobRow.state == JobState.queued, JobRow.dispatched_at.is_(None), JobRow.device_class == device_class)
        .subquery()
    )
    query = (
        select(waiting.c.id)
        .outerjoin(under_way, under_way.c.tenant_id == waiting.c.tenant_id)
        .order_by(func.coalesce(under_way.c.jobs, 0) + waiting.c.place, waiting.c.id)
    )
    return list(session.scalars(query.limit(limit)))


def sent(session: Session, device_class: str | None) -> int:
    """How many queued jobs of a class should have a message waiting."""
    queued = (JobRow.state == JobState.queued, JobRow.device_class == device_class)
    return session.scalar(select(func.count()).where(*queued, JobRow.dispatched_at.is_not(None))) or 0


def sent_before(session: Session, device_class: str | None, age: timedelta, limit: int) -> list[UUID]:
    """Queued jobs of a class whose id went on its queue longer than `age` ago, longest ago first."""
    queued = (JobRow.state == JobState.queued, JobRow.device_class == device_class)
    query = select(JobRow.id).where(*queued, JobRow.dispatched_at < from_now(-age))
    return list(session.scalars(query.order_by(JobRow.dispatched_at).limit(limit)))


def mark_sent(session: Session, job: UUID) -> None:
    change(session, job, JobRow.state == JobState.queued, dispatched_at=from_now())


AGAIN: dict[str, Any] = {"state": JobState.queued, "stage": None, "progress": 0.0, "dispatched_at": None}
"""What puts a job back among those that were never sent."""


def reap(session: Session, max_attempts: int) -> list[JobRow]:
    """End or queue again the running jobs whose worker gave no sign of life for a lease."""
    dead = (JobRow.state == JobState.running, JobRow.lease_expires_at < from_now())
    freed = {"lease_token": None, "lease_expires_at": None}
    cancelled = {"state": JobState.cancelled, "finished_at": from_now()}
    failed = {
        "state": JobState.failed,
        "finished_at": from_now(),
        "error_code": "attempts_exhausted",
        "error_detail": f"{max_attempts} workers took this job, and none of them came to its end.",
        "error_hint": "Its model or images may need more memory than a worker has, or the database or the store did "
        "not answer; the worker's log tells. Retry the job when that is mended.",
    }
    reaped = []
    for id in session.scalars(select(JobRow.id).where(*dead)).all():
        row = (
            change(session, id, *dead, JobRow.cancel_requested.is_(True), **freed, **cancelled)
            or change(session, id, *dead, JobRow.attempts >= max_attempts, **freed, **failed)
            or change(session, id, *dead, **freed, **AGAIN)
        )
        if row is not None:
            add_event(session, row, "state")
            reaped.append(row)
    return reaped
