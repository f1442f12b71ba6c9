"""An upload before and after its bytes: opened, looked at, deleted."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from redeem.contract import Page, Upload, UploadKind, UploadRequest, UploadState
from service import blobs, examples, parts, quotas, records, store
from service.context import Context, Here
from service.errors import InsufficientStorage, NotFound, StorageQuotaExceeded, UploadInUse
from service.idempotency import IdempotencyKey, once
from service.paging import FileListing, link_next
from service.receiving import check_room, check_size
from service.responses import CREATING, refusals
from service.scopes import READ, UPLOADS_WRITE
from service.tables import UploadRow, now

router = APIRouter(tags=["uploads"])


class UploadListing(FileListing):
    kind: UploadKind | None = None
    state: UploadState | None = None


@router.post(
    "/uploads",
    dependencies=UPLOADS_WRITE,
    status_code=201,
    responses=refusals(*CREATING, InsufficientStorage, StorageQuotaExceeded),
)
def open_upload(
    request: Annotated[UploadRequest, Body(openapi_examples=examples.UPLOAD)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> Upload:
    """Open an upload. Its bytes go to `PUT /v1/uploads/{id}/content`, or in parts to `PATCH`. Where `sha256` is that of
    a file which the tenant has sent before, it is complete at once."""
    check_size(request.size or 0, here.settings)
    standing = _standing(here, request)
    if standing["state"] == UploadState.open:
        check_room(here, request.size or 0)
    with here.sessions.begin() as session:
        row = once(
            session,
            idempotency_key,
            request,
            UploadRow,
            lambda: _open(session, here, request.model_dump() | standing),
        )
    response.headers["Location"] = f"/v1/uploads/{row.id}"
    return Upload.model_validate(row, from_attributes=True)


def _standing(here: Context, request: UploadRequest) -> dict[str, Any]:
    """How an upload begins. A file that is recorded, but lost from the store, is sent again."""
    if request.sha256 is not None:
        with here.readers() as session:
            size = parts.size_of(session, request.sha256)
        if size is not None and request.size in (None, size) and store.has(here.store, request.sha256):
            return {"state": UploadState.complete, "size": size, "received": size, "received_at": now()}
    return {"state": UploadState.open}


@router.get("/uploads/{id}", dependencies=READ, responses=refusals(NotFound))
def get_upload(id: UUID, here: Here) -> Upload:
    with here.readers() as session:
        return Upload.model_validate(records.find(session, UploadRow, id), from_attributes=True)


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


@router.delete("/uploads/{id}", dependencies=UPLOADS_WRITE, status_code=204, responses=refusals(NotFound, UploadInUse))
def delete_upload(id: UUID, here: Here) -> None:
    """Forget an upload that no model and no bundle is made of, finished or not."""
    with here.readers() as session:
        upload = records.find(session, UploadRow, id)
    if not _remove(here, id):
        raise UploadInUse(f"A model or a bundle is made of upload {id}.")
    store.discard_parts(here.store, id)
    if upload.sha256 is not None:
        blobs.collect(here, [upload.sha256])


def _open(session: Session, here: Context, fields: dict[str, Any]) -> UploadRow:
    quotas.check_bytes(session, here.settings, fields["size"] or 0)
    return records.add(session, UploadRow(**fields))


def _remove(here: Context, id: UUID) -> bool:
    try:
        with here.sessions.begin() as session:
            records.find(session, UploadRow, id)
            return parts.remove(session, id)
    except IntegrityError:  # something was made of it just now
        return False
