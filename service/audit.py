"""The audit log: who did what to which object, in rows that are only ever added and whose hashes form a chain.

An entry is written at the end of the transaction that it tells of, so there is neither without the other. Whoever
changes, removes or swaps rows afterwards breaks the chain where `verify` finds it; only rows cut off the end leave it
whole, and are found by a `head` that was kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import UTC
from uuid import UUID

from sqlalchemy import event, select
from sqlalchemy.orm import Session, SessionTransaction

from service.tables import AuditRow, now
from service.tenancy import caller_of

GENESIS = "0" * 64
"""What the first row follows."""
LOCK = 7274497
"""PostgreSQL's advisory lock of the chain's end. SQLite has one writer at a time."""


@dataclass(frozen=True)
class Entry:
    tenant: UUID | None
    actor: str
    """`key:PREFIX`, `oidc:SUBJECT`, `operator`, `server`, or `unknown`."""
    action: str
    object: str
    outcome: str = "done"
    """`done`, or the code of the refusal."""
    address: str = ""
    request: str = ""


@dataclass(frozen=True)
class Verification:
    rows: int
    head: str
    """Hash of the last row."""
    faults: list[str]


def note(session: Session, action: str, what: UUID | str, tenant: UUID | None = None) -> None:
    """Tell what this session's caller does, when the transaction is committed. Sessions without a caller are the
    server's own, unless `info["actor"]` has another name."""
    caller = caller_of(session)
    if caller is None:
        add(session, Entry(tenant, session.info.get("actor", "server"), action, str(what)))
    else:
        add(session, Entry(caller.tenant, caller.name, action, str(what), "done", caller.address, caller.request))


def add(session: Session, entry: Entry) -> None:
    session.info.setdefault("audit", []).append(entry)


@event.listens_for(Session, "before_commit", propagate=True)
def _write(session: Session) -> None:
    # Last of all, so that nobody waits for the chain's end longer than an insert takes.
    entries: list[Entry] = session.info.pop("audit", [])
    if not entries:
        return
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
    last = session.execute(select(AuditRow.seq, AuditRow.hash).order_by(AuditRow.seq.desc()).limit(1)).first()
    before, previous = (last.seq, last.hash) if last else (0, GENESIS)
    for seq, entry in enumerate(entries, before + 1):
        row = AuditRow(seq=seq, at=now(), previous=previous, **asdict(entry))
        row.hash = previous = row_hash(row)
        session.add(row)
    session.flush()


@event.listens_for(Session, "after_soft_rollback", propagate=True)
def _forget(session: Session, previous: SessionTransaction) -> None:
    session.info.pop("audit", None)


def row_hash(row: AuditRow) -> str:
    """SHA-256 of everything in the row but its own hash."""
    at = row.at.astimezone(UTC).isoformat(timespec="microseconds")
    tenant = None if row.tenant is None else str(row.tenant)
    told = [row.seq, at, tenant, row.actor, row.action, row.object, row.outcome, row.address, row.request, row.previous]
    return hashlib.sha256(json.dumps(told, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


def verify(session: Session, head: str | None = None) -> Verification:
    """Follow the chain from its first row. `head` is what an earlier verification gave: it has to be in there still."""
    count, previous, expected, faults, heads = 0, GENESIS, 1, list[str](), {GENESIS}
    for row in session.scalars(select(AuditRow).order_by(AuditRow.seq).execution_options(yield_per=1000)):
        if row.seq != expected:
            gone = str(expected) if row.seq == expected + 1 else f"{expected} to {row.seq - 1}"
            faults.append(f"row {gone} is missing")
        elif row.previous != previous:
            faults.append(f"row {row.seq} does not follow row {row.seq - 1}: one of them was changed")
        if row.hash != row_hash(row):
            faults.append(f"row {row.seq} was changed")
        count, previous, expected = count + 1, row.hash, row.seq + 1
        heads |= {row.hash} if row.hash == head else set()
    if head is not None and head not in heads:
        faults.append(f"the row with the hash {head} is gone, so rows were cut off or all were written anew")
    return Verification(count, previous, faults)
