"""upload → model: what the bytes claim to be."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Request, Response

from redeem.architectures import ARCHITECTURES
from redeem.contract import Architecture, Model, ModelRequest, Page, Preprocessing, UploadKind
from service import examples, records
from service.context import Here
from service.errors import (
    NotFound,
    UnknownArchitecture,
    UnknownReference,
    UploadIncomplete,
    WrongKind,
)
from service.idempotency import IdempotencyKey, once
from service.paging import FileListing, Labels, labelled, link_next
from service.responses import CREATING, refusals
from service.scopes import READ, UPLOADS_WRITE
from service.tables import ModelRow

router = APIRouter(tags=["models"])


class ModelListing(FileListing):
    label: Labels


@router.post(
    "/models",
    dependencies=UPLOADS_WRITE,
    status_code=201,
    responses=refusals(*CREATING, UploadIncomplete, UnknownReference, WrongKind, UnknownArchitecture),
)
def create_model(
    request: Annotated[ModelRequest, Body(openapi_examples=examples.MODEL)],
    response: Response,
    here: Here,
    idempotency_key: IdempotencyKey = None,
) -> Model:
    """Say what the bytes of a complete upload are. The worker checks it when it loads them."""
    _check_name(request.architecture)
    with here.sessions.begin() as session:
        records.complete_upload_of(session, request.upload, UploadKind.model)
        row = once(session, idempotency_key, request, ModelRow, lambda: records.add(session, _row(request)))
        model = _model(row)
    response.headers["Location"] = f"/v1/models/{model.id}"
    return model


@router.get("/models/{id}", dependencies=READ, responses=refusals(NotFound))
def get_model(id: UUID, here: Here) -> Model:
    with here.readers() as session:
        return _model(records.find(session, ModelRow, id))


@router.get("/models", dependencies=READ)
def list_models(
    listing: Annotated[ModelListing, Query()], request: Request, response: Response, here: Here
) -> Page[Model]:
    """The newest first."""
    conditions = [labelled(here.engine, ModelRow, label) for label in listing.label]
    if listing.sha256 is not None:
        conditions.append(ModelRow.upload_id.in_(records.with_hash(listing.sha256)))
    with here.readers() as session:
        rows, next_cursor = records.page(session, ModelRow, listing, *conditions)
    link_next(request, response, next_cursor)
    return Page(items=[_model(row) for row in rows], next_cursor=next_cursor)


def _check_name(architecture: Architecture) -> None:
    # What torchvision and timm have, only the worker knows.
    if architecture.name.startswith("paper/") and architecture.name not in ARCHITECTURES:
        raise UnknownArchitecture(f"There is no architecture {architecture.name}.")


def _row(request: ModelRequest) -> ModelRow:
    return ModelRow(
        upload_id=request.upload,
        architecture=request.architecture.model_dump(mode="json"),
        preprocessing=request.preprocessing.model_dump(mode="json"),
        labels=request.labels,
    )


def _model(row: ModelRow) -> Model:
    upload = row.upload
    return Model(
        id=row.id,
        upload=row.upload_id,
        filename=upload.filename,
        sha256=upload.sha256 or "",
        size=upload.size or 0,
        architecture=Architecture.model_validate(row.architecture),
        preprocessing=Preprocessing.model_validate(row.preprocessing),
        labels=row.labels,
        created_at=row.created_at,
    )
