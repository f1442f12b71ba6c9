"""service → client: the files that a job made, whole or in part, with the hash to check them by."""

from __future__ import annotations

import base64
import re
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from redeem.contract import JobState
from redeem.report import Artifact
from service import records, store
from service.attest import ensure_attested
from service.context import Context, Here
from service.errors import (
    ArtifactLost,
    Deleted,
    JobNotFinished,
    NoArtifact,
    NotFound,
    RangeNotSatisfiable,
    ServiceError,
)
from service.responses import FILE, refusals
from service.scopes import READ
from service.tables import ArtifactRow, JobRow

router = APIRouter(tags=["downloads"])

WEIGHTS = "purified.safetensors"

REFUSED = refusals(NotFound, NoArtifact, JobNotFinished, Deleted, RangeNotSatisfiable, ArtifactLost)

HeaderText = Annotated[str | None, Header()]


@router.get("/jobs/{id}/artifacts", dependencies=READ, responses=refusals(NotFound))
def list_artifacts(id: UUID, here: Here) -> list[Artifact]:
    """What the job made; nothing until it has succeeded."""
    with here.readers() as session:
        job = records.find(session, JobRow, id)
    if job.state != JobState.succeeded:
        return []
    ensure_attested(here, job)
    with here.readers() as session:
        return [Artifact.model_validate(row, from_attributes=True) for row in records.artifacts(session, id)]


@router.head(
    "/jobs/{id}/artifacts/{name}",
    dependencies=READ,
    response_class=StreamingResponse,
    responses=FILE | REFUSED,
    name="head_artifact",
)
@router.get(
    "/jobs/{id}/artifacts/{name}", dependencies=READ, response_class=StreamingResponse, responses=FILE | REFUSED
)
async def get_artifact(
    id: UUID,
    name: str,
    request: Request,
    here: Here,
    if_none_match: HeaderText = None,
    if_range: HeaderText = None,
    range: HeaderText = None,
) -> Response:
    """One file. `Range` takes a part of it, `If-None-Match` spares what is there already, HEAD tells size and hash."""
    artifact = await run_in_threadpool(artifact_of, here, id, name)
    headers = _headers(artifact)
    if if_none_match is not None and matches(headers["ETag"], if_none_match):
        return Response(status_code=304, headers={"ETag": headers["ETag"]})
    part = None
    if range is not None and if_range in (None, headers["ETag"]) and request.method == "GET":
        part = parse_range(range, artifact.size)
    start, end = part or (0, artifact.size)
    headers["Content-Length"] = str(end - start)
    if part is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
    status = 200 if part is None else 206
    if request.method == "HEAD":
        return Response(None, status, headers, media_type=artifact.media_type)
    try:
        content = await store.open_range(here.store, artifact.sha256, start, end)
    except FileNotFoundError as error:
        raise await run_in_threadpool(lost, here, id, name) from error
    return StreamingResponse(content, status, headers, media_type=artifact.media_type)


@router.head(
    "/jobs/{id}/weights",
    dependencies=READ,
    response_class=StreamingResponse,
    responses=FILE | REFUSED,
    name="head_weights",
)
@router.get("/jobs/{id}/weights", dependencies=READ, response_class=StreamingResponse, responses=FILE | REFUSED)
async def get_weights(
    id: UUID,
    request: Request,
    here: Here,
    if_none_match: HeaderText = None,
    if_range: HeaderText = None,
    range: HeaderText = None,
) -> Response:
    """The purified model: the suspect's key names, shapes and types, without the backdoor."""
    return await get_artifact(id, WEIGHTS, request, here, if_none_match, if_range, range)


def artifact_of(here: Context, job: UUID, name: str) -> ArtifactRow:
    """A file for the client. Raises NotFound, JobNotFinished or NoArtifact.

    Only a job that has succeeded gives files: what an unfinished or failed one left behind was never judged.
    """
    with here.readers() as session:
        found = records.find(session, JobRow, job)
    state = JobState(found.state)
    if not state.terminal:
        raise JobNotFinished(f"Job {job} is {state}; its files come when it has succeeded.")
    ensure_attested(here, found)
    with here.readers() as session:
        rows = records.artifacts(session, job)
    for row in rows:
        if row.name == name and state == JobState.succeeded:
            return row
    raise NoArtifact(f"Job {job} has {state}, and there is no {name}.")


def lost(here: Context, job: UUID, name: str) -> ServiceError:
    """Why a file that was recorded a moment ago is not in the store."""
    try:
        artifact_of(here, job, name)
    except (NotFound, NoArtifact):
        return Deleted(f"Job {job} was deleted while its {name} was asked for.")
    return ArtifactLost(f"{name} of job {job} is recorded, but not in the store, or altered there.")


def parse_range(value: str, size: int) -> tuple[int, int] | None:
    """`bytes=first-last`, `bytes=first-` or `bytes=-length` to (start, end), end exclusive.

    None for what RFC 9110 lets a server ignore: other units, several ranges, nonsense. Raises RangeNotSatisfiable.
    """
    match = re.fullmatch(r"bytes=\s*(\d{0,18})-(\d{0,18})\s*", value, re.ASCII)
    if match is None or not any(match.groups()):
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        detail = f"The file has {size} bytes, and {value} lies outside."
        raise RangeNotSatisfiable(detail, headers={"Content-Range": f"bytes */{size}"})
    return start, end


def _headers(artifact: ArtifactRow) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    return {
        "ETag": f'"sha256:{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(artifact.name, safe='')}",
        "X-Content-Type-Options": "nosniff",
    }


def matches(etag: str, if_none_match: str) -> bool:
    """Weak comparison, as RFC 9110 wants it here."""
    candidates = [candidate.strip().removeprefix("W/") for candidate in if_none_match.split(",")]
    return etag in candidates or candidates == ["*"]
