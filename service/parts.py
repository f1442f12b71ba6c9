"""What came of an upload so far: its parts, one after the other and without gaps. Every change is a compare-and-set on
the upload's row, so of several senders at once one gets on and the others learn where it got to."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from redeem.contract import UploadState
from service import audit
from service.tables import BundleRow, ModelRow, UploadPartRow, UploadRow, now


def size_of(session: Session, sha256: str) -> int | None:
    """Of a file with that hash which the caller's tenant has already; None where it has none. What others have makes no
    difference, to the answer or to the time it takes."""
    known = select(UploadRow.size).where(UploadRow.sha256 == sha256, UploadRow.state == UploadState.complete)
    return session.scalar(known.limit(1))


def of(session: Session, upload: UUID) -> list[UploadPartRow]:
    """In order."""
    query = select(UploadPartRow).where(UploadPartRow.upload_id == upload)
    return list(session.scalars(query.order_by(UploadPartRow.start)))


def append(session: Session, upload: UUID, start: int, end: int, part: UUID) -> bool:
    """Take a part that is in the store for the bytes `start` to `end` (exclusive). Whether it followed the last one."""
    values = {"received": end, "received_at": now()}
    taken = _change(session, upload, UploadRow.state == UploadState.open, UploadRow.received == start, **values)
    if taken:
        session.add(UploadPartRow(upload_id=upload, start=start, size=end - start, id=part))
    return taken


def announce(session: Session, upload: UUID, size: int) -> None:
    """Note a size that became known after the upload was opened."""
    _change(session, upload, UploadRow.state == UploadState.open, UploadRow.size.is_(None), size=size)


def forget(session: Session, upload: UUID) -> None:
    """Begin anew, from byte 0."""
    if _change(session, upload, UploadRow.state == UploadState.open, received=0):
        _delete_rows(session, upload)


def complete(session: Session, upload: UUID, size: int, sha256: str) -> bool:
    """Whether it was still open."""
    values = {"state": UploadState.complete, "size": size, "sha256": sha256, "received": size, "received_at": now()}
    done = _change(session, upload, UploadRow.state == UploadState.open, **values)
    if done:
        _delete_rows(session, upload)
        audit.note(session, "upload.completed", upload)
    return done


def remove(session: Session, upload: UUID, *conditions: ColumnElement[bool]) -> bool:
    """Delete an upload that nothing is made of, where the conditions hold."""
    if not _change(session, upload, ~_used(upload), *conditions, received=UploadRow.received):  # locks the row
        return False
    _delete_rows(session, upload)
    session.execute(delete(UploadRow).where(UploadRow.id == upload))
    audit.note(session, "upload.deleted", upload)
    return True


def abandoned(age: timedelta) -> ColumnElement[bool]:
    """Of an upload: that it is unfinished, and nothing came for so long."""
    came = func.coalesce(UploadRow.received_at, UploadRow.created_at)
    return (UploadRow.state == UploadState.open) & (came < now() - age)


def _used(upload: UUID) -> ColumnElement[bool]:
    return exists().where(ModelRow.upload_id == upload) | exists().where(BundleRow.upload_id == upload)


def _change(session: Session, upload: UUID, *conditions: ColumnElement[bool], **values: object) -> bool:
    changed = update(UploadRow).where(UploadRow.id == upload, *conditions).values(**values).returning(UploadRow.id)
    return session.scalar(changed) is not None


def _delete_rows(session: Session, upload: UUID) -> None:
    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload))
