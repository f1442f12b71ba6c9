"""Who may: API keys, checked before anything of a request's body is read."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from pathlib import Path

import structlog
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import func, select
from starlette.types import ASGIApp, Receive, Scope, Send

from service.database import Sessions
from service.errors import UNAVAILABLE, DatabaseUnavailable, ServiceError, Unauthorized, refuse
from service.settings import Settings
from service.tables import ApiKey

log = structlog.get_logger(__name__)


def new_key() -> str:
    """`redeem_` and 43 characters: 32 random bytes."""
    return f"redeem_{secrets.token_urlsafe(32)}"


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def ensure_first_key(settings: Settings, sessions: Sessions) -> None:
    """See to it that the key file holds a key that works. The first start makes one; a lost file gets a new one."""
    if settings.key_file.exists() and is_known(sessions, settings.key_file.read_text().strip()):
        return
    key = new_key()
    with sessions.begin() as session:
        others = session.scalar(select(func.count()).select_from(ApiKey)) or 0
        session.add(ApiKey(name="first" if not others else "replacement", hash=key_hash(key)))
    _write_private(settings.key_file, f"{key}\n")
    if others:
        log.warning("the key file was lost or stale; it holds a new key, and older keys still work")
    else:
        log.info("made the first key", file=str(settings.key_file))


def is_known(sessions: Sessions, key: str) -> bool:
    with sessions() as session:
        return session.scalar(select(ApiKey.id).where(ApiKey.hash == key_hash(key))) is not None


class RequireKey:
    """ASGI middleware: no key, no entry to /v1, wherever the app is mounted.

    A dependency would come too late: FastAPI reads a JSON body before it solves dependencies.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and "/v1/" in f"{scope['path']}/":
            error = await self._refusal(Request(scope))
            if error is not None:
                await refuse(error, scope["path"])(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _refusal(self, request: Request) -> ServiceError | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return Unauthorized("There is no API key with this request.")
        try:
            known = await run_in_threadpool(is_known, request.app.state.context.readers, key.strip())
        except UNAVAILABLE:
            return DatabaseUnavailable("The database does not answer, so the key cannot be checked.")
        return None if known else Unauthorized("This server does not know that API key.")


def _write_private(path: Path, text: str) -> None:
    """Atomically, and readable by the owner alone from the first byte on."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
