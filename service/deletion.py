"""Rows that go, on request or by age. Bytes go after them (`service.blobs`), so that no row ever names what is gone."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import structlog
from sqlalchemy import ColumnElement, delete, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from redeem.contract import JobState, UploadState
from redeem.webhooks import DeliveryState
from service import audit
from service.clock import from_now
from service.context import Context
from service.errors import InUse, JobNotFinished
from service.records import NAMES, change, find
from service.tables import (
    ArtifactRow,
    BundleRow,
    DeliveryRow,
    IdempotencyRow,
    JobEventRow,
    JobRow,
    ModelRow,
    UploadRow,
)

log = structlog.get_logger(__name__)

ENDED = tuple(state for state in JobState if state.terminal)

Input = TypeVar("Input", ModelRow, BundleRow)

UNUSED: dict[type[ModelRow] | type[BundleRow] | type[UploadRow], ColumnElement[bool]] = {
    ModelRow: ~exists().where(JobRow.model_id == ModelRow.id),
    BundleRow: ~exists().where(JobRow.clean_id == BundleRow.id) & ~exists().where(JobRow.triggered_id == BundleRow.id),
    UploadRow: (UploadRow.state == UploadState.complete)
    & ~exists().where(ModelRow.upload_id == UploadRow.id)
    & ~exists().where(BundleRow.upload_id == UploadRow.id),
}
"""What holds of a row that may go. The models come before their uploads."""


def delete_job(session: Session, id: UUID) -> list[str]:
    """Forget a job that has ended, its history and its files. Gives the hashes of these. Raises NotFound and
    JobNotFinished."""
    hashes = _forget(session, id, JobRow.state.in_(ENDED))
    if hashes is None:
        raise JobNotFinished(f"Job {id} is {find(session, JobRow, id).state}; only one that has ended can be deleted.")
    return hashes


def _forget(session: Session, id: UUID, *conditions: ColumnElement[bool]) -> list[str] | None:
    """The hashes of the job's files; None where it is gone or a condition does not hold, and nothing is done."""
    locked = change(session, id, *conditions, progress=JobRow.progress)
    if locked is None:
        return None
    hashes = list(session.scalars(select(ArtifactRow.sha256).where(ArtifactRow.job_id == id)))
    for table in (JobEventRow, ArtifactRow):
        session.execute(delete(table).where(table.job_id == id))
    _delete(session, JobRow, id)
    audit.note(session, "job.deleted", id, locked.tenant_id)
    return hashes


def delete_input(session: Session, table: type[Input], id: UUID) -> None:
    """Forget a model or a bundle that no job names. Its upload stays. Raises NotFound and InUse."""
    name = NAMES[table]
    find(session, table, id)
    try:
        if not _delete(session, table, id, UNUSED[table]):
            raise InUse(f"Jobs name {name} {id}.")
    except IntegrityError as error:
        raise InUse(f"A job was just made with {name} {id}.") from error
    audit.note(session, f"{name}.deleted", id)


def expire(context: Context, age: timedelta) -> None:
    """Forget what is older: jobs by their end, then what no job needs any more, and what webhooks were told. Bytes are
    for the next sweep."""
    jobs = _expire_jobs(context, age)
    inputs = sum(_expire_unused(context, table, age) for table in UNUSED)
    with context.sessions.begin() as session:
        done = DeliveryRow.state != DeliveryState.pending, DeliveryRow.created_at < from_now(-age)
        session.execute(delete(DeliveryRow).where(*done))
    if jobs or inputs:
        log.info("retention", jobs=jobs, inputs=inputs)


def _expire_jobs(context: Context, age: timedelta) -> int:
    """How many went. What another round has deleted or somebody has retried since it was found is left alone."""
    old = JobRow.state.in_(ENDED), JobRow.finished_at < from_now(-age)
    with context.readers() as session:
        ids = list(session.scalars(select(JobRow.id).where(*old)))
    gone = 0
    for id in ids:
        with context.sessions.begin() as session:
            gone += _forget(session, id, *old) is not None
    return gone


def _expire_unused(context: Context, table: type[ModelRow] | type[BundleRow] | type[UploadRow], age: timedelta) -> int:
    unused = (table.created_at < from_now(-age), UNUSED[table])
    with context.readers() as session:
        ids = list(session.scalars(select(table.id).where(*unused)))
    gone = 0
    for id in ids:
        try:
            with context.sessions.begin() as session:
                gone += _delete(session, table, id, *unused)
        except IntegrityError:
            log.info("kept: it was taken into use just now", kind=NAMES[table], id=str(id))
    return gone


def drop_internal(context: Context, age: timedelta) -> None:
    """Forget what stages kept of jobs that succeeded: nobody runs those again."""
    done = select(JobRow.id).where(JobRow.state == JobState.succeeded, JobRow.finished_at < from_now(-age))
    with context.sessions.begin() as session:
        session.execute(delete(ArtifactRow).where(ArtifactRow.internal.is_(True), ArtifactRow.job_id.in_(done)))


def _delete(
    session: Session,
    table: type[JobRow] | type[ModelRow] | type[BundleRow] | type[UploadRow],
    id: UUID,
    *conditions: ColumnElement[bool],
) -> bool:
    """Whether it was there and the conditions held."""
    gone = delete(table).where(table.id == id, *conditions).returning(table.id)
    if session.scalar(gone.execution_options(synchronize_session=False)) is None:
        return False
    session.execute(delete(IdempotencyRow).where(IdempotencyRow.made == id))
    return True
