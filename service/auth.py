"""Who calls: found before anything of a request's body is read."""

from __future__ import annotations

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Receive, Scope, Send

from redeem.access import Scope as KeyScope
from service import keys
from service.context import Context
from service.errors import UNAVAILABLE, DatabaseUnavailable, ServiceError, Unauthorized, refuse
from service.tables import now
from service.tenancy import Caller


class Authenticate:
    """ASGI middleware: no key, no entry to /v1, wherever the app is mounted; behind it `request.state.caller` says who.

    A dependency would come too late: FastAPI reads a JSON body before it solves dependencies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "/v1/" in f"{scope['path']}/":
            request = Request(scope)
            try:
                scope["state"]["caller"] = await _caller(request)
            except ServiceError as error:
                await refuse(error, request)(scope, receive, send)
                return
            with structlog.contextvars.bound_contextvars(tenant=str(scope["state"]["caller"].tenant)):
                await self.app(scope, receive, send)
            return
        await self.app(scope, receive, send)


async def _caller(request: Request) -> Caller:
    """Raises Unauthorized or DatabaseUnavailable."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("There is no API key with this request.")
    context: Context = request.app.state.context
    try:
        row = await run_in_threadpool(keys.find, context.readers, key.strip())
    except UNAVAILABLE as error:
        raise DatabaseUnavailable("The database does not answer, so the key cannot be checked.") from error
    if row is None:
        raise Unauthorized("This server does not know that API key.")
    if row.revoked_at is not None:
        raise Unauthorized("This API key was revoked.")
    if row.expires_at is not None and row.expires_at <= now():
        raise Unauthorized(f"This API key expired at {row.expires_at:%Y-%m-%d %H:%M:%S} UTC.")
    context.uses[row.id] = now()
    return Caller(row.tenant_id, f"key:{row.prefix}", frozenset(map(KeyScope, row.scopes)))
