"""client → store: the bytes, hashed while they stream; an Upload row."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from redeem.contract import Page, Upload, UploadKind, UploadRequest, UploadState
from service import examples, records, store
from service.context import Context, Here
from service.errors import (
    EmptyUpload,
    HashMismatch,
    InvalidRequest,
    NotFound,
    SizeMismatch,
    TooLarge,
    UploadComplete,
    UploadInterrupted,
)
from service.idempotency import IdempotencyKey, once
from service.paging import FileListing, link_next
from service.responses import CREATING, RAW_BODY, refusals
from service.scopes import READ, UPLOADS_WRITE
from service.tables import UploadRow

router = APIRouter(tags=["uploads"])


class UploadListing(FileListing):
    kind: UploadKind | None = None
    state: UploadState | None = None


@router.post("/uploads", dependencies=UPLOADS_WRITE, status_code=201, responses=refusals(*CREATING))
def open_upload(
    request: Annotated[UploadRequest, Body(openapi_examples=examples.UPLOAD)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> Upload:
    """Open an upload. Its bytes go to `PUT /v1/uploads/{id}/content`."""
    _check_size(request.size or 0, here)
    with here.sessions.begin() as session:
        row = once(
            session,
            idempotency_key,
            request,
            UploadRow,
            lambda: records.add(session, UploadRow(**request.model_dump())),
        )
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return Upload.model_validate(row, from_attributes=True)


@router.get("/uploads/{id}", dependencies=READ, responses=refusals(NotFound))
def get_upload(id: UUID, here: Here) -> Upload:
    return Upload.model_validate(_find(here, id), from_attributes=True)


@router.get("/uploads", dependencies=READ)
def list_uploads(
    listing: Annotated[UploadListing, Query()], request: Request, response: Response, here: Here
) -> Page[Upload]:
    """The newest first."""
    wanted = {UploadRow.kind: listing.kind, UploadRow.state: listing.state, UploadRow.sha256: listing.sha256}
    conditions = [column == value for column, value in wanted.items() if value is not None]
    with here.readers() as session:
        rows, next_cursor = records.page(session, UploadRow, listing, *conditions)
    link_next(request, response, next_cursor)
    return Page(items=[Upload.model_validate(row, from_attributes=True) for row in rows], next_cursor=next_cursor)


@router.put(
    "/uploads/{id}/content",
    dependencies=UPLOADS_WRITE,
    openapi_extra=RAW_BODY,
    responses=refusals(
        UploadInterrupted, NotFound, UploadComplete, TooLarge, SizeMismatch, HashMismatch, EmptyUpload, InvalidRequest
    ),
)
async def put_content(id: UUID, request: Request, here: Here) -> Upload:
    """The whole file as the raw body (`curl -T file`). What was announced is checked; after a refusal the upload is
    still open, and the file can be sent again."""
    upload = await run_in_threadpool(_find, here, id)
    if upload.state == UploadState.complete:
        raise UploadComplete(f"Upload {id} already has its {upload.size} bytes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal():
        _check_size(int(length), here)
        _check_announced(upload.size, int(length))
    pending = store.pending_key(id)
    try:
        digest = await store.receive(here.store, pending, _chunks(request, here, upload.size))
        _check_digest(upload, digest)
        await store.file_under_hash(here.store, pending, digest.sha256)
    except ClientDisconnect as error:
        raise UploadInterrupted(f"The bytes of upload {id} stopped before their end.") from error
    finally:
        await store.discard(here.store, pending)
    return await run_in_threadpool(_complete, here, id, digest)


def _find(here: Context, id: UUID) -> UploadRow:
    with here.readers() as session:
        return records.find(session, UploadRow, id)


def _complete(here: Context, id: UUID, digest: store.Digest) -> Upload:
    with here.sessions.begin() as session:
        if not records.complete_upload(session, id, digest.size, digest.sha256):
            raise UploadComplete(f"Upload {id} got its bytes from another request meanwhile.")
        return Upload.model_validate(records.find(session, UploadRow, id), from_attributes=True)


async def _chunks(request: Request, here: Context, announced: int | None) -> AsyncIterator[bytes]:
    """The body as it comes, refused at the first byte too many."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        _check_size(size, here)
        if announced is not None and size > announced:
            raise SizeMismatch(f"The upload was announced with {announced} bytes, and more came.")
        yield chunk


def _check_size(size: int, here: Context) -> None:
    limit = here.settings.max_upload_bytes
    if size > limit:
        raise TooLarge(f"This server takes files of at most {limit} bytes.")


def _check_announced(announced: int | None, size: int) -> None:
    if announced is not None and size != announced:
        raise SizeMismatch(f"The upload was announced with {announced} bytes, and {size} came.")


def _check_digest(upload: UploadRow, digest: store.Digest) -> None:
    if digest.size == 0:
        raise EmptyUpload("The body has no bytes.")
    _check_announced(upload.size, digest.size)
    if upload.sha256 is not None and digest.sha256 != upload.sha256:
        raise HashMismatch(
            f"The upload was announced with SHA-256 {upload.sha256}, and the bytes have {digest.sha256}."
        )
