"""upload → model: what the bytes claim to be."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from redeem.architectures import ARCHITECTURES
from redeem.contract import Architecture, Model, ModelRequest, Page, Preprocessing, UploadKind
from service import records
from service.context import Here
from service.errors import UnknownArchitecture
from service.idempotency import IdempotencyKey, once
from service.paging import Cursor, Limit
from service.tables import ModelRow, UploadRow

router = APIRouter(tags=["models"])


@router.post("/models", status_code=201)
def create_model(
    request: ModelRequest, response: Response, here: Here, idempotency_key: IdempotencyKey = None
) -> Model:
    """Say what the bytes of a complete upload are. The worker checks it when it loads them."""
    _check_name(request.architecture)
    with here.sessions.begin() as session:
        records.complete_upload_of(session, request.upload, UploadKind.model)
        row = once(session, idempotency_key, request, ModelRow, lambda: records.add(session, _row(request)))
        model = _model(session, row)
    response.headers["Location"] = f"/v1/models/{model.id}"
    return model


@router.get("/models/{id}")
def get_model(id: UUID, here: Here) -> Model:
    with here.readers() as session:
        return _model(session, records.find(session, ModelRow, id))


@router.get("/models")
def list_models(here: Here, cursor: Cursor = None, limit: Limit = 50) -> Page[Model]:
    """The newest first."""
    with here.readers() as session:
        rows, next_cursor = records.page(session, ModelRow, cursor, limit)
        return Page(items=[_model(session, row) for row in rows], next_cursor=next_cursor)


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


def _model(session: Session, row: ModelRow) -> Model:
    upload = records.find(session, UploadRow, row.upload_id)
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
