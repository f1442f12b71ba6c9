"""That every row is somebody's."""

from __future__ import annotations

from service.tables import AuditRow, Base, OfJob, Owned, SigningKeyRow, TenantRow

NOBODYS = {TenantRow, SigningKeyRow, AuditRow}
"""What the server has for itself. Anything else without an owner would be a leak."""


def test_every_table_belongs_to_a_tenant() -> None:
    classes = {mapper.class_ for mapper in Base.registry.mappers}
    assert {kind for kind in classes if not issubclass(kind, Owned | OfJob)} == NOBODYS
