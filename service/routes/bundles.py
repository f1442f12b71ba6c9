"""upload → bundle: clean images, or triggered ones and what their trigger should bring about."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response

from redeem.contract import Bundle, BundleRequest, BundleRole, Page, UploadKind
from service import examples, records
from service.context import Here
from service.errors import (
    NotFound,
    UnknownReference,
    UploadIncomplete,
    WrongKind,
)
from service.idempotency import IdempotencyKey, once
from service.paging import FileListing, link_next
from service.responses import CREATING, refusals
from service.scopes import READ, UPLOADS_WRITE
from service.tables import BundleRow

router = APIRouter(tags=["bundles"])


class BundleListing(FileListing):
    role: BundleRole | None = None


@router.post(
    "/bundles",
    dependencies=UPLOADS_WRITE,
    status_code=201,
    responses=refusals(*CREATING, UploadIncomplete, UnknownReference, WrongKind),
)
def create_bundle(
    request: Annotated[BundleRequest, Body(openapi_examples=examples.BUNDLE)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> Bundle:
    """Say what the images of a complete upload are. The worker checks them when it loads them."""
    with here.sessions.begin() as session:
        records.complete_upload_of(session, request.upload, UploadKind.bundle)
        row = once(session, idempotency_key, request, BundleRow, lambda: records.add(session, _row(request)))
        bundle = _bundle(row)
    response.headers["Location"] = f"/v1/bundles/{bundle.id}"
    return bundle


@router.get("/bundles/{id}", dependencies=READ, responses=refusals(NotFound))
def get_bundle(id: UUID, here: Here) -> Bundle:
    with here.readers() as session:
        return _bundle(records.find(session, BundleRow, id))


@router.get("/bundles", dependencies=READ)
def list_bundles(
    listing: Annotated[BundleListing, Query()], request: Request, response: Response, here: Here
) -> Page[Bundle]:
    """The newest first."""
    conditions = [] if listing.role is None else [BundleRow.role == listing.role]
    if listing.sha256 is not None:
        conditions.append(BundleRow.upload_id.in_(records.with_hash(listing.sha256)))
    with here.readers() as session:
        rows, next_cursor = records.page(session, BundleRow, listing, *conditions)
    link_next(request, response, next_cursor)
    return Page(items=[_bundle(row) for row in rows], next_cursor=next_cursor)


def _row(request: BundleRequest) -> BundleRow:
    return BundleRow(upload_id=request.upload, role=request.role, target=request.target)


def _bundle(row: BundleRow) -> Bundle:
    upload = row.upload
    return Bundle(
        id=row.id,
        upload=row.upload_id,
        filename=upload.filename,
        sha256=upload.sha256 or "",
        size=upload.size or 0,
        role=BundleRole(row.role),
        target=row.target,
        created_at=row.created_at,
    )
