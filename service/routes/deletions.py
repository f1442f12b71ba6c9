"""What a client wants forgotten: jobs that have ended, and inputs that no job needs."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter

from service import blobs
from service.context import Here
from service.deletion import delete_input, delete_job
from service.errors import InUse, JobNotFinished, NotFound
from service.responses import refusals
from service.scopes import JOBS_WRITE, UPLOADS_WRITE
from service.tables import BundleRow, ModelRow

router = APIRouter()


@router.delete(
    "/jobs/{id}", dependencies=JOBS_WRITE, status_code=204, tags=["jobs"], responses=refusals(NotFound, JobNotFinished)
)
def remove_job(id: UUID, here: Here) -> None:
    """Forget a job that has ended: its history, its report, its files. Bytes that nothing else names go too."""
    with here.sessions.begin() as session:
        hashes = delete_job(session, id)
    blobs.collect(here, hashes)


@router.delete(
    "/models/{id}", dependencies=UPLOADS_WRITE, status_code=204, tags=["models"], responses=refusals(NotFound, InUse)
)
def remove_model(id: UUID, here: Here) -> None:
    """Forget a model that no job names. Its upload stays, and is deleted for itself."""
    with here.sessions.begin() as session:
        delete_input(session, ModelRow, id)


@router.delete(
    "/bundles/{id}", dependencies=UPLOADS_WRITE, status_code=204, tags=["bundles"], responses=refusals(NotFound, InUse)
)
def remove_bundle(id: UUID, here: Here) -> None:
    """Forget a bundle that no job names. Its upload stays, and is deleted for itself."""
    with here.sessions.begin() as session:
        delete_input(session, BundleRow, id)
