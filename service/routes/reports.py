"""service → client: what was measured before and after, and the verdict."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Response

from redeem.contract import Report
from service import store
from service.context import Here
from service.errors import ArtifactLost
from service.routes.downloads import artifact_of

router = APIRouter(tags=["reports"])

# A page made from names that strangers chose: whatever is in it, it runs nothing and asks for nothing.
INERT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@router.get("/jobs/{id}/report", response_model=Report)
def get_report(id: UUID, here: Here, accept: Annotated[str, Header()] = "") -> Response:
    """The report, byte for byte as the worker stored it: JSON, or HTML for whoever would rather have that."""
    artifact = artifact_of(here, id, "report.html" if accept.startswith("text/html") else "report.json")
    try:
        content = store.get_bytes(here.store, artifact.sha256)
    except (FileNotFoundError, store.CorruptBlob) as error:
        raise ArtifactLost(f"The report of job {id} is recorded, but not in the store, or altered there.") from error
    headers = {
        "ETag": f'"sha256:{artifact.sha256}"',
        "Vary": "Accept",
        "Content-Security-Policy": INERT,
        "X-Content-Type-Options": "nosniff",
    }
    return Response(content, headers=headers, media_type=artifact.media_type)
