"""What a finished job came from, signed: provenance and a bill of materials, made when somebody first looks for files.

Made here and not by the worker: so no worker needs the key, and what is signed is what the server knows itself (who
ordered what, made from which bytes) beside the one thing that the worker said, its report. All of it is in rows and
blobs that no longer change, and Ed25519 draws nothing at random: two that make it at once make the same bytes.
"""

from __future__ import annotations

from typing import Any

import structlog
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from redeem.attestation import (
    BOM,
    BUILD_TYPE,
    PROVENANCE,
    BuildDefinition,
    Builder,
    Digest,
    File,
    Metadata,
    Parameters,
    Provenance,
    RunDetails,
    Statement,
    encode,
)
from redeem.contract import JobState
from redeem.report import Report
from service import records, signing, store
from service.bom import bill_of_materials
from service.context import Context
from service.tables import ArtifactRow, BundleRow, JobRow, ModelRow

log = structlog.get_logger(__name__)


def ensure_attested(here: Context, job: JobRow) -> None:
    """See to it that a job which succeeded has its provenance and its bill of materials among its files. A job without
    a report that can be read gets neither: its other files are to be had all the same."""
    if job.state != JobState.succeeded:
        return
    with here.readers() as session:
        files = {row.name: row for row in records.artifacts(session, job.id)}
        inputs = _inputs(session, job)
        model, target = session.get_one(ModelRow, job.model_id), _target(session, job)
    if PROVENANCE in files or "report.json" not in files:
        return
    try:
        report = Report.model_validate_json(store.get_bytes(here.store, files["report.json"].sha256))
    except (FileNotFoundError, store.CorruptBlob, ValidationError) as error:
        log.warning("not attested: the report is unreadable", job=str(job.id), error=type(error).__name__)
        return
    subjects = [_file(row.name, row.sha256) for row in files.values()]
    bom = _stored(here, job, BOM, "application/vnd.cyclonedx+json", bill_of_materials(job, report, subjects, inputs))
    statement = Statement(
        subject=[*subjects, _file(bom.name, bom.sha256)],
        predicate=Provenance(
            build_definition=BuildDefinition(
                build_type=BUILD_TYPE,
                external_parameters=_parameters(job, model, target),
                resolved_dependencies=inputs,
            ),
            run_details=_run(here.settings.builder, job, report),
            verdict=report.verdict,
        ),
    )
    envelope = signing.sign(here.settings, encode(statement))
    provenance = _stored(here, job, PROVENANCE, "application/vnd.in-toto.bundle+json", envelope)
    try:
        with here.sessions.begin() as session:
            session.add_all([bom, provenance])
    except IntegrityError:  # somebody else looked at the same time
        return
    log.info("attested", job=str(job.id))


def _inputs(session: Session, job: JobRow) -> list[File]:
    sources: list[tuple[str, ModelRow | BundleRow]] = [
        ("suspect", session.get_one(ModelRow, job.model_id)),
        ("clean", session.get_one(BundleRow, job.clean_id)),
    ]
    if job.triggered_id is not None:
        sources.append(("triggered", session.get_one(BundleRow, job.triggered_id)))
    return [_file(name, row.upload.sha256 or "") for name, row in sources]


def _target(session: Session, job: JobRow) -> int | list[int] | None:
    return None if job.triggered_id is None else session.get_one(BundleRow, job.triggered_id).target


def _parameters(job: JobRow, model: ModelRow, target: int | list[int] | None) -> Parameters:
    fields: dict[str, Any] = {name: getattr(job, name) for name in ("purifier", "detectors", "seed")}
    return Parameters.model_validate(
        fields | {"architecture": model.architecture, "preprocessing": model.preprocessing, "target": target}
    )


def _run(builder: str, job: JobRow, report: Report) -> RunDetails:
    if job.finished_at is None:
        raise ValueError(f"job {job.id} has succeeded, but not ended")
    return RunDetails(
        builder=Builder(id=builder, version={"redeem": report.environment.redeem, "torch": report.environment.torch}),
        metadata=Metadata(
            invocation_id=f"urn:uuid:{job.id}",
            started_on=job.started_at or job.created_at,
            finished_on=job.finished_at,
        ),
    )


def _stored(here: Context, job: JobRow, name: str, media_type: str, content: bytes) -> ArtifactRow:
    digest = store.put_bytes(here.store, content)
    return ArtifactRow(job_id=job.id, name=name, media_type=media_type, size=digest.size, sha256=digest.sha256)


def _file(name: str, sha256: str) -> File:
    return File(name=name, digest=Digest(sha256=sha256))
