"""Which bytes are still wanted. Blobs are shared: by jobs that made the same file, by tenants that sent the same one.

A blob goes only while it is held, and once no row of any tenant names it and it is older than a grace period. Whoever
is about to name bytes that lie in the store holds them too, and looks whether they are there, in the transaction that
names them. So an upload either finds its bytes and keeps them, or learns that they are gone and sends them again. A
job that publishes does the same: its files are young, but the same bytes may have lain there, old and about to go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.store import ObjectStore
from sqlalchemy import func, select, union
from sqlalchemy.orm import Session

from redeem.contract import UploadState
from service.store import blob_key, remove
from service.tables import ArtifactRow, UploadRow

if TYPE_CHECKING:  # it brings FastAPI along, which a worker has no use for
    from service.context import Context

log = structlog.get_logger(__name__)

BATCH = 500


def hold(session: Session, sha256: str) -> None:
    """Until the transaction ends, nobody else names these bytes or removes them."""
    # On SQLite a transaction that writes is alone anyway. The connection, not the session: this is about no tenant.
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(sha256[:15], 16))))


def still_there(session: Session, store: ObjectStore, sha256: str) -> bool:
    """Whether the bytes that the transaction is about to name are in the store; they stay until it has ended."""
    hold(session, sha256)
    return _changed_at(store, sha256) is not None


def collect(context: Context, hashes: Iterable[str]) -> int:
    """Remove those of these blobs that nobody wants. Gives how many went."""
    removed = 0
    for sha256 in sorted(set(hashes)):
        with context.sessions.begin() as session:
            hold(session, sha256)
            changed_at = _changed_at(context.store, sha256)
            if changed_at is None or not _is_old(changed_at, context.settings.blob_grace):
                continue
            if not named(session, [sha256]):
                remove(context.store, sha256)
                removed += 1
    return removed


def sweep(context: Context) -> int:
    """Look through the whole store for blobs that nobody wants. Gives how many went."""
    removed = 0
    for listed in obstore.list(context.store, "blobs", chunk_size=BATCH):
        old = {
            entry["path"].rpartition("/")[2]
            for entry in listed
            if _is_old(entry["last_modified"], context.settings.blob_grace)
        }
        with context.readers() as session:
            unwanted = old - named(session, sorted(old))
        removed += collect(context, unwanted)
    if removed:
        log.info("removed blobs that nothing names", count=removed)
    return removed


@dataclass(frozen=True)
class Compared:
    named: int
    """Blobs that rows name."""
    lost: list[Lost]
    unnamed: int
    """Blobs in the store that no row names."""


@dataclass(frozen=True)
class Lost:
    """A blob that rows name and that is not in the store, and who names it: `upload ID`, or `job ID: FILE`."""

    sha256: str
    by: list[str]


def compare(session: Session, store: ObjectStore) -> Compared:
    """What the rows of all tenants name beside what is in the store."""
    wanted = set(session.scalars(union(select(ArtifactRow.sha256), select(UploadRow.sha256).where(COMPLETE))))
    lost, unnamed = set(wanted), 0
    for listed in obstore.list(store, "blobs", chunk_size=BATCH):
        found = {entry["path"].rpartition("/")[2] for entry in listed}
        lost -= found
        unnamed += len(found - wanted)
    return Compared(len(wanted), [Lost(sha256, _namers(session, sha256)) for sha256 in sorted(lost)], unnamed)


COMPLETE = UploadRow.state == UploadState.complete  # before, its hash is only announced


def _namers(session: Session, sha256: str) -> list[str]:
    uploads = session.scalars(select(UploadRow.id).where(UploadRow.sha256 == sha256, COMPLETE))
    files = session.execute(select(ArtifactRow.job_id, ArtifactRow.name).where(ArtifactRow.sha256 == sha256))
    return [*(f"upload {id}" for id in uploads), *(f"job {id}: {name}" for id, name in files)]


def named(session: Session, hashes: Sequence[str]) -> set[str]:
    """Those that a row names, of whatever tenant: asked of the connection, since a session may see one tenant only."""
    found: set[str] = set()
    for column in (ArtifactRow.sha256, UploadRow.sha256):
        found.update(session.connection().scalars(select(column).where(column.in_(hashes))))
    return found


def _changed_at(store: ObjectStore, sha256: str) -> datetime | None:
    try:
        return obstore.head(store, blob_key(sha256))["last_modified"]
    except FileNotFoundError:
        return None


def _is_old(changed_at: datetime, grace: timedelta) -> bool:
    return datetime.now(UTC) - changed_at >= grace
