"""client → job: a Job row; after the commit, its id on the queue."""

from __future__ import annotations

import time
from typing import Annotated, Any
from uuid import UUID

import pydantic
from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Field
from sqlalchemy import Row
from sqlalchemy.orm import Session

from redeem import wire
from redeem.contract import (
    BundleRole,
    FieldError,
    Job,
    JobError,
    JobRequest,
    JobState,
    MethodRequest,
    Outcome,
    Page,
    Sha256,
)
from redeem.detector_options import DETECTOR_OPTIONS
from redeem.options import PURIFIER_OPTIONS
from service import examples, quotas, records
from service.context import Context, Here
from service.errors import (
    InvalidRequest,
    JobFinished,
    JobNotFinished,
    JobQuotaExceeded,
    NotFound,
    UnknownDeviceClass,
    UnknownMethod,
    UnknownReference,
    WrongKind,
)
from service.idempotency import IdempotencyKey, once
from service.job_reads import next_turn
from service.paging import Labels, Listing, labelled, link_next
from service.responses import CREATING, refusals
from service.scopes import JOBS_WRITE, READ
from service.tables import BundleRow, JobRow, ModelRow, WebhookRow

router = APIRouter(tags=["jobs"])

LONGEST_WAIT = 60.0
COLUMNS = [name for name in Job.model_fields if name in JobRow.__table__.columns]


class JobListing(Listing):
    state: JobState | None = None
    verdict: Outcome | None = None
    sha256: Annotated[Sha256 | None, Field(description="Of the suspect model's bytes")] = None
    label: Labels


@router.post(
    "/jobs",
    dependencies=JOBS_WRITE,
    status_code=202,
    responses=refusals(*CREATING, UnknownReference, WrongKind, UnknownMethod, UnknownDeviceClass, JobQuotaExceeded),
)
def create_job(
    request: Annotated[JobRequest, Body(openapi_examples=examples.JOB)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> Job:
    """Submit a job. It is safe in the database when this answers, whether or not the queue is up."""
    with here.sessions.begin() as session:
        job = resource(once(session, idempotency_key, request, JobRow, lambda: _submit(session, here, request)))
    here.wake.set()
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    response.headers["Retry-After"] = "5"
    return job


@router.get("/jobs", dependencies=READ)
def list_jobs(listing: Annotated[JobListing, Query()], request: Request, response: Response, here: Here) -> Page[Job]:
    """The newest first."""
    conditions = [labelled(here.engine, JobRow, label) for label in listing.label]
    if listing.state is not None:
        conditions.append(JobRow.state == listing.state)
    if listing.verdict is not None:
        conditions.append(JobRow.verdict == listing.verdict)
    if listing.sha256 is not None:
        conditions.append(records.of_model(listing.sha256))
    with here.readers() as session:
        rows, next_cursor = records.page(session, JobRow, listing, *conditions)
    link_next(request, response, next_cursor)
    return Page(items=[resource(row) for row in rows], next_cursor=next_cursor)


@router.get("/jobs/{id}", dependencies=READ, responses=refusals(NotFound))
async def get_job(
    id: UUID,
    request: Request,
    here: Here,
    wait: Annotated[float, Query(ge=0, allow_inf_nan=False)] = 0,
) -> Job:
    """The job; with `wait`, as soon as it has ended, or as it is after that many seconds (60 at most; fewer where the
    server stops)."""
    deadline = time.monotonic() + min(wait, LONGEST_WAIT)
    while True:
        row = await here.job_reads.read(here.caller, id)
        if row is None:
            raise NotFound(f"There is no job {id}.")
        job = resource(row)
        left = deadline - time.monotonic()
        if job.state.terminal or left <= 0 or here.stopping.is_set() or await request.is_disconnected():
            return job
        await next_turn(left)


@router.post("/jobs/{id}/cancel", dependencies=JOBS_WRITE, status_code=202, responses=refusals(NotFound, JobFinished))
def cancel_job(id: UUID, here: Here) -> Job:
    """A queued job is cancelled at once, a running one as soon as its worker sees it. Asking again does no harm."""
    with here.sessions.begin() as session:
        return resource(records.cancel(session, id))


@router.post(
    "/jobs/{id}/retry",
    dependencies=JOBS_WRITE,
    status_code=202,
    responses=refusals(NotFound, JobFinished, JobNotFinished, JobQuotaExceeded),
)
def retry_job(id: UUID, here: Here) -> Job:
    """Try a job again that failed or was cancelled, as it was submitted. What its earlier attempts finished is kept."""
    with here.sessions.begin() as session:
        quotas.check_jobs(session, here.settings)
        job = resource(records.retry(session, id))
    here.wake.set()
    return job


def resource(row: JobRow | Row[Any]) -> Job:
    """A job as the wire shows it."""
    error = None
    if row.error_code is not None:
        error = JobError(code=row.error_code, detail=row.error_detail or "", hint=row.error_hint or "")
    return Job(
        **{name: getattr(row, name) for name in COLUMNS},
        model=row.model_id,
        clean=row.clean_id,
        triggered=row.triggered_id,
        webhook=row.webhook_id,
        error=error,
    )


def _submit(session: Session, here: Context, request: JobRequest) -> JobRow:
    resolved = request.model_copy(
        update={
            "purifier": _resolved(request.purifier, PURIFIER_OPTIONS, "purifier"),
            "detectors": [_resolved(d, DETECTOR_OPTIONS, "detectors") for d in request.detectors],
        }
    )
    _check_device_class(request.device_class, here.settings.device_class_names)
    records.referenced(session, ModelRow, request.model)
    _check_bundle(session, request.clean, BundleRole.clean)
    if request.triggered is not None:
        _check_bundle(session, request.triggered, BundleRole.triggered)
    if request.webhook is not None:
        records.referenced(session, WebhookRow, request.webhook)
    quotas.check_jobs(session, here.settings)
    return records.submit(session, resolved)


def _check_device_class(wanted: str | None, known: list[str]) -> None:
    if wanted is not None and wanted not in known:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise UnknownDeviceClass(f"This server has no device class {wanted}: {there}.")


def _check_bundle(session: Session, id: UUID, role: BundleRole) -> None:
    bundle = records.referenced(session, BundleRow, id)
    if bundle.role != role:
        raise WrongKind(f"`{role}` wants a {role} bundle, and {id} is a {bundle.role} one.")


def _resolved(method: MethodRequest, known: dict[str, type[wire.Request]], field: str) -> MethodRequest:
    """With all its options, checked, the defaults of today included: a job says what it ran with."""
    if method.name not in known:
        raise UnknownMethod(f"`{field}` names {method.name}, which is not one of: {', '.join(known)}.")
    try:
        options: dict[str, Any] = known[method.name].model_validate(method.options).model_dump(mode="json")
    except pydantic.ValidationError as error:
        errors = [
            FieldError(where=".".join(["body", field, "options", *map(str, e["loc"])]), message=e["msg"])
            for e in error.errors()
        ]
        raise InvalidRequest(f"{method.name} does not take these options.", errors=errors) from error
    return MethodRequest(name=method.name, options=options)
