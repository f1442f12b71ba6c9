"""API keys: how they look, how they are kept, and which one a request came with.

`redeem_<prefix>_<secret>`: 12 characters that lists and logs may show, then 32 random bytes. The first keys had no
prefix (`redeem_<secret>`) and go on working; lists show the beginning of their hash instead.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from redeem.access import Scope
from service import audit
from service.database import Sessions
from service.settings import Settings
from service.tables import DEFAULT_TENANT, ApiKey

log = structlog.get_logger(__name__)

FORM = re.compile(r"redeem_(?:([0-9a-f]{12})_)?[A-Za-z0-9_-]{43}", re.ASCII)


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def prefix_of(key: str) -> str | None:
    """The public part of a key, or None: that is no key."""
    match = FORM.fullmatch(key)
    return match and (match[1] or key_hash(key)[:12])


def create(
    session: Session, tenant: UUID, name: str, scopes: Iterable[Scope], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A new key's row, and the key itself, which nobody learns again."""
    prefix = secrets.token_hex(6)
    key = f"redeem_{prefix}_{secrets.token_urlsafe(32)}"
    row = ApiKey(
        tenant_id=tenant,
        name=name,
        prefix=prefix,
        hash=key_hash(key),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    audit.note(session, "key.created", prefix, tenant)
    return row, key


def find(sessions: Sessions, key: str) -> ApiKey | None:
    """The row of a key, be it good or no longer. Raises what the database raises when it is down."""
    prefix = prefix_of(key)
    if prefix is None:
        return None
    with sessions() as session:
        row = session.scalar(select(ApiKey).where(ApiKey.prefix == prefix))
    return row if row is not None and hmac.compare_digest(row.hash, key_hash(key)) else None


def ensure_first_key(settings: Settings, sessions: Sessions) -> None:
    """See to it that the key file holds a key that is known. The first start makes one; a lost file gets a new one."""
    if settings.key_file.exists() and find(sessions, settings.key_file.read_text().strip()):
        return
    with sessions.begin() as session:
        others = session.scalar(select(func.count()).select_from(ApiKey)) or 0
        _, key = create(session, DEFAULT_TENANT, "replacement" if others else "first", Scope)
    _write_private(settings.key_file, f"{key}\n")
    if others:
        log.warning("the key file was lost or stale; it holds a new key, and older keys still work")
    else:
        log.info("made the first key", file=str(settings.key_file))


def _write_private(path: Path, text: str) -> None:
    """Atomically, and readable by the owner alone from the first byte on."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)
