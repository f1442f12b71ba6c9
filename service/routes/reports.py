"""service → client: what was measured before and after, and the verdict."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Response

from redeem.report import Report
from service import store
from service.context import Here
from service.errors import ArtifactLost, Deleted, JobNotFinished, NoArtifact, NotFound
from service.responses import Responses, refusals
from service.routes.downloads import HeaderText, artifact_of, lost, matches
from service.scopes import READ

router = APIRouter(tags=["reports"])

# A page made from names that strangers chose: whatever is in it, it runs nothing and asks for nothing.
INERT = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"

FORMS: Responses = {
    200: {"content": {"text/html": {"schema": {"type": "string"}}}},
    304: {"description": "The client has it already"},
}
REFUSED = refusals(NotFound, NoArtifact, JobNotFinished, Deleted, ArtifactLost)


@router.get("/jobs/{id}/report", dependencies=READ, response_model=Report, responses=FORMS | REFUSED)
def get_report(
    id: UUID, here: Here, accept: Annotated[str, Header()] = "", if_none_match: HeaderText = None
) -> Response:
    """The report, byte for byte as the worker stored it: JSON, or HTML for whoever would rather have that."""
    artifact = artifact_of(here, id, "report.html" if accept.startswith("text/html") else "report.json")
    headers = {
        "ETag": f'"sha256:{artifact.sha256}"',
        "Vary": "Accept",
        "Content-Security-Policy": INERT,
        "X-Content-Type-Options": "nosniff",
    }
    if if_none_match is not None and matches(headers["ETag"], if_none_match):
        return Response(None, 304, headers)
    try:
        content = store.get_bytes(here.store, artifact.sha256)
    except (FileNotFoundError, store.CorruptBlob) as error:
        raise lost(here, id, artifact.name) from error
    return Response(content, headers=headers, media_type=artifact.media_type)
