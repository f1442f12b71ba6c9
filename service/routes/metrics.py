"""What Prometheus reads. It tells of all tenants, so no tenant's key opens it, but a token of the operator's."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import APIRouter, Header, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from service.context import Server
from service.errors import NotFound, Unauthorized
from service.metrics import exposition

router = APIRouter()


@router.get("/metrics", include_in_schema=False)
def metrics(server: Server, authorization: Annotated[str, Header()] = "") -> Response:
    """There is none unless the operator set `REDEEM_METRICS_TOKEN`."""
    token = server.settings.metrics_token
    if token is None:
        raise NotFound("This server has no /metrics: REDEEM_METRICS_TOKEN is not set.")
    given = authorization.removeprefix("Bearer ").encode()
    if not hmac.compare_digest(given, token.get_secret_value().encode()):
        raise Unauthorized("/metrics wants the token of REDEEM_METRICS_TOKEN.")
    return Response(exposition(server.metrics, server.readers), media_type=CONTENT_TYPE_PLAIN_0_0_4)
