"""Who calls: found before anything of a request's body is read."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from redeem.access import Scope as KeyScope
from service import audit, keys, oidc
from service.database import Sessions
from service.errors import UNAVAILABLE, DatabaseUnavailable, ServiceError, Unauthorized
from service.notes import Notes
from service.problems import refuse
from service.rates import Rates
from service.tables import now
from service.tenancy import Caller

REMEMBERED = 5.0
"""Seconds that a key is believed without a look at the database: a revoked one may work that long yet."""
MOST_REMEMBERED = 10_000


@dataclass(frozen=True)
class Known:
    """A key or a token that was found good."""

    caller: Caller
    key: UUID | None
    """None of a token."""
    expires_at: datetime | None
    until: float
    """When to look again, on the monotonic clock."""


@dataclass(frozen=True)
class Gate:
    """What it takes to know callers."""

    readers: Sessions
    rates: Rates
    notes: Notes
    issuer: oidc.Issuer | None = None
    """None: there are API keys alone."""
    known: dict[str, Known] = field(default_factory=dict)
    """By the hash of the key or token."""


class Authenticate:
    """ASGI middleware: no key, no entry to /v1, wherever the app is mounted; behind it `request.state.caller` says who.

    A dependency would come too late: FastAPI reads a JSON body before it solves dependencies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or "/v1/" not in f"{scope['path']}/":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        gate: Gate = request.app.state.gate
        try:
            caller, standing = await _enter(gate, request)
        except ServiceError as error:
            await refuse(error, request)(scope, receive, send)
            return
        scope["state"]["caller"] = caller

        async def send_with_standing(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(standing)
            await send(message)

        with structlog.contextvars.bound_contextvars(tenant=str(caller.tenant)):
            await self.app(scope, receive, send_with_standing)


async def _enter(gate: Gate, request: Request) -> tuple[Caller, dict[str, str]]:
    """Who it is, and the headers that tell how many requests are left. Raises Unauthorized, RateLimited,
    UnknownTenant, IssuerUnavailable or DatabaseUnavailable."""
    address = request.client.host if request.client else ""
    try:
        caller = await _caller(gate, request)
    except (Unauthorized, oidc.UnknownTenant) as error:
        note_refusal(gate.notes, request, error)
        await gate.rates.failures.hit(address)
        raise
    caller = dataclasses.replace(caller, address=address, request=request.state.request_id)
    return caller, await gate.rates.requests.hit(caller.name)


async def _caller(gate: Gate, request: Request) -> Caller:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise Unauthorized("There is no API key with this request.")
    known = await _known(gate, key.strip())
    if known.expires_at is not None and known.expires_at <= now():
        raise Unauthorized(f"This API key expired at {known.expires_at:%Y-%m-%d %H:%M:%S} UTC.")
    if known.key is not None:
        gate.notes.uses[known.key] = now()
    return known.caller


async def _known(gate: Gate, key: str) -> Known:
    digest = keys.key_hash(key)
    known = gate.known.get(digest)
    if known is not None and known.until > time.monotonic():
        return known
    gate.known.pop(digest, None)
    try:
        if gate.issuer is not None and oidc.FORM.fullmatch(key):
            known = await _of_token(gate.issuer, gate.readers, key)
        else:
            known = await _of_key(gate.readers, key)
    except UNAVAILABLE as error:
        raise DatabaseUnavailable("The database does not answer, so the key cannot be checked.") from error
    if len(gate.known) >= MOST_REMEMBERED:
        gate.known.clear()
    gate.known[digest] = known
    return known


async def _of_token(issuer: oidc.Issuer, readers: Sessions, token: str) -> Known:
    caller, exp = await oidc.admit(issuer, readers, token)
    return Known(caller, None, None, time.monotonic() + min(REMEMBERED, exp - time.time()))


async def _of_key(readers: Sessions, key: str) -> Known:
    row = await run_in_threadpool(keys.find, readers, key)
    if row is None:
        raise Unauthorized("This server does not know that API key.")
    if row.revoked_at is not None:
        raise Unauthorized("This API key was revoked.")
    caller = Caller(row.tenant_id, f"key:{row.prefix}", frozenset(map(KeyScope, row.scopes)))
    return Known(caller, row.id, row.expires_at, time.monotonic() + REMEMBERED)


def note_refusal(notes: Notes, request: Request, error: ServiceError) -> None:
    """For the audit log: who was refused what, and why."""
    caller: Caller | None = getattr(request.state, "caller", None)
    notes.refused(
        audit.Entry(
            tenant=caller.tenant if caller else None,
            actor=caller.name if caller else "unknown",
            action="request.refused",
            object=f"{request.method} {request.url.path}".replace("\0", "")[:255],
            outcome=error.code,
            address=request.client.host if request.client else "",
            request=request.state.request_id,
        )
    )
