"""What an operator does with tenants and API keys, on the database itself: commands of `service.admin`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from redeem.access import Key, NewKey, Scope, Tenant
from service import audit, database, keys, migrate
from service.errors import DatabaseUnavailable, InvalidRequest, NotFound
from service.settings import Settings
from service.tables import ApiKey, TenantRow, now

Answer = dict[str, Any]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


class NoSuchTenant(NotFound):
    code = "no_such_tenant"
    hint = "`redeem tenants list` shows those that there are, and `redeem tenants create` makes one."


class UnknownKey(NotFound):
    code = "unknown_key"
    hint = "`redeem keys list` shows the prefix of every key."


class BadTenant(InvalidRequest):
    code = "bad_tenant"
    hint = "A tenant's name is new, and has 1 to 63 small letters, digits, dots, dashes and underscores."


class KeyEnded(InvalidRequest):
    code = "key_ended"
    hint = "`redeem keys create` makes a new key."


def create_tenant(settings: Settings, name: str) -> Answer:
    """Raises BadTenant."""
    with administering(settings) as session:
        if not NAME.fullmatch(name):
            raise BadTenant(f"{name!r} is no name for a tenant.")
        if session.scalar(select(TenantRow.id).where(TenantRow.name == name)):
            raise BadTenant(f"There is a tenant {name} already.")
        row = TenantRow(name=name)
        session.add(row)
        session.flush()
        audit.note(session, "tenant.created", row.name, row.id)
        return _tenant(row)


def list_tenants(settings: Settings) -> Answer:
    with administering(settings) as session:
        return {"tenants": [_tenant(row) for row in session.scalars(select(TenantRow).order_by(TenantRow.name))]}


def create_key(settings: Settings, name: str, tenant: str, scopes: list[str], days: float | None) -> Answer:
    """A key that ends after `days`, or never. Raises NoSuchTenant."""
    with administering(settings) as session:
        owner = session.scalar(select(TenantRow).where(TenantRow.name == tenant))
        if owner is None:
            raise NoSuchTenant(f"There is no tenant {tenant}.")
        expires_at = None if days is None else now() + timedelta(days=days)
        return _new_key(session, *keys.create(session, owner.id, name, map(Scope, scopes), expires_at))


def list_keys(settings: Settings, tenant: str | None) -> Answer:
    """The keys of one tenant or of all, oldest first. Raises NoSuchTenant."""
    with administering(settings) as session:
        query = select(ApiKey).order_by(ApiKey.id)
        if tenant is not None:
            owner = session.scalar(select(TenantRow.id).where(TenantRow.name == tenant))
            if owner is None:
                raise NoSuchTenant(f"There is no tenant {tenant}.")
            query = query.where(ApiKey.tenant_id == owner)
        return {"keys": [_key(session, row) for row in session.scalars(query)]}


def revoke_key(settings: Settings, prefix: str) -> Answer:
    """Refuse a key from now on; again changes nothing. Raises UnknownKey."""
    with administering(settings) as session:
        row = _find(session, prefix)
        if row.revoked_at is None:
            row.revoked_at = now()
            audit.note(session, "key.revoked", row.prefix, row.tenant_id)
        return _key(session, row)


def rotate_key(settings: Settings, prefix: str, overlap_hours: float) -> Answer:
    """A new key like an old one, with its lifetime begun anew. The old one works for so many hours more. Raises
    UnknownKey, or KeyEnded where the old one works no longer."""
    with administering(settings) as session:
        old = _find(session, prefix)
        moment = now()
        if old.revoked_at is not None or _ends_by(old, moment):
            raise KeyEnded(f"Key {prefix} works no longer, so nothing takes over from it.")
        expires_at = None if old.expires_at is None else moment + (old.expires_at - old.created_at)
        made = keys.create(session, old.tenant_id, old.name, map(Scope, old.scopes), expires_at)
        audit.note(session, "key.rotated", prefix, old.tenant_id)
        end = moment + timedelta(hours=overlap_hours)
        if overlap_hours == 0:
            old.revoked_at = moment
        elif not _ends_by(old, end):
            old.expires_at = end
        return _new_key(session, *made)


@contextmanager
def administering(settings: Settings) -> Iterator[Session]:
    """A session that reaches every tenant. Raises DatabaseUnavailable where migrations are missing."""
    engine = database.open_engine(settings)
    try:
        with engine.connect() as connection:
            if not migrate.fits(connection):
                raise DatabaseUnavailable("The database is not at the newest migration; run `redeem db upgrade` first.")
        with dataclasses.replace(database.sessions(engine), info={"actor": "operator"}).begin() as session:
            yield session
    finally:
        engine.dispose()


def _find(session: Session, prefix: str) -> ApiKey:
    row = session.scalar(select(ApiKey).where(ApiKey.prefix == prefix))
    if row is None:
        raise UnknownKey(f"There is no key {prefix}.")
    return row


def _ends_by(row: ApiKey, moment: datetime) -> bool:
    return row.expires_at is not None and row.expires_at <= moment


def _tenant(row: TenantRow) -> Answer:
    return Tenant(name=row.name, created_at=row.created_at).model_dump(mode="json")


def _key(session: Session, row: ApiKey) -> Answer:
    fields = {name: getattr(row, name) for name in Key.model_fields if name != "tenant"}
    return Key(tenant=session.get_one(TenantRow, row.tenant_id).name, **fields).model_dump(mode="json")


def _new_key(session: Session, row: ApiKey, key: str) -> Answer:
    return NewKey(**_key(session, row), key=key).model_dump(mode="json")
