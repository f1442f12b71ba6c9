"""What an operator does with the audit log: commands of `service.admin`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import select

from service import audit
from service.key_admin import administering
from service.settings import Settings
from service.tables import AuditRow

COLUMNS = tuple(column.key for column in AuditRow.__table__.columns)


def verify(settings: Settings, head: str | None) -> dict[str, Any]:
    with administering(settings) as session:
        return asdict(audit.verify(session, head))


def export(settings: Settings, after: int) -> dict[str, Any]:
    """The rows after that one, as JSON has them: with the values that their hashes cover."""
    with administering(settings) as session:
        rows = session.scalars(select(AuditRow).where(AuditRow.seq > after).order_by(AuditRow.seq))
        return {"rows": [{name: _plain(getattr(row, name)) for name in COLUMNS} for row in rows]}


def _plain(value: Any) -> Any:
    if isinstance(value, str | int | None):
        return value
    return value.isoformat(timespec="microseconds") if hasattr(value, "isoformat") else str(value)
