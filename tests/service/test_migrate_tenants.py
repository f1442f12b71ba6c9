"""That what was there before tenants is there afterwards, and belongs to the first of them; and back."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import Engine

from service import keys, migrate
from service.database import open_engine, readers, sessions
from service.settings import Settings
from service.tables import DEFAULT_TENANT, BundleRow, JobRow, ModelRow, UploadRow, now
from service.tenancy import Caller, bound

KEY = f"redeem_{'Ab_-' * 10}xyz"
CREATED = now()


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A database of the time before, with a job in it."""
    made = open_engine(settings)
    with made.begin() as connection:
        command.upgrade(migrate.config(connection), "0001")
        tables = sa.MetaData()
        tables.reflect(connection)
        for table, values in BEFORE.items():
            row = {column.name: values.get(column.name) for column in tables.tables[table].columns}
            connection.execute(tables.tables[table].insert(), row)
    yield made
    made.dispose()


def id_of(number: int) -> str:
    return f"{number:032x}"


BEFORE: dict[str, dict[str, Any]] = {
    "api_keys": {"id": id_of(1), "name": "first", "hash": hashlib.sha256(KEY.encode()).hexdigest()},
    "idempotency_keys": {"key_hash": hashlib.sha256(b"once").hexdigest(), "fingerprint": "f" * 64, "made": id_of(2)},
    "uploads": {"id": id_of(2), "kind": "model", "filename": "file", "state": "open"},
    "models": {"id": id_of(3), "upload_id": id_of(2), "architecture": {}, "preprocessing": {}, "labels": {}},
    "bundles": {"id": id_of(4), "upload_id": id_of(2), "role": "clean"},
    "jobs": {
        **{"id": id_of(5), "state": "queued", "progress": 0.0, "cancel_requested": False},
        **{"model_id": id_of(3), "clean_id": id_of(4), "seed": 7, "attempts": 0},
        **{"purifier": {}, "detectors": [], "policy": {}, "labels": {}, "timings": {}},
    },
    "job_events": {"job_id": id_of(5), "seq": 1, "type": "state", "state": "queued", "progress": 0.0},
    "artifacts": {"id": id_of(6), "job_id": id_of(5), "name": "a", "media_type": "b", "size": 1, "sha256": "0" * 64},
}
for values in BEFORE.values():
    values |= {"created_at": CREATED, "at": CREATED, "internal": False}


def rows(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        return {table: connection.execute(tables.tables[table].select()).mappings().all() for table in BEFORE}


def test_what_was_there_belongs_to_the_default_tenant(engine: Engine) -> None:
    migrate.upgrade(engine)
    caller = Caller(DEFAULT_TENANT, "test")
    with bound(readers(engine), caller)() as session:
        for table in (UploadRow, ModelRow, BundleRow, JobRow):
            assert [row.tenant_id for row in session.scalars(sa.select(table))] == [DEFAULT_TENANT]
        assert session.scalars(sa.select(JobRow)).one().seed == 7


def test_old_keys_may_do_everything_still(engine: Engine) -> None:
    migrate.upgrade(engine)
    row = keys.find(readers(engine), KEY)
    assert row is not None
    assert (row.tenant_id, row.name, row.expires_at, row.revoked_at) == (DEFAULT_TENANT, "first", None, None)
    assert row.scopes == ["admin", "jobs:write", "read", "uploads:write"]


def test_back_and_forth_loses_nothing_of_before(engine: Engine) -> None:
    before = rows(engine)
    migrate.upgrade(engine)
    assert rows(engine) != before
    migrate.downgrade(engine, "0001")
    assert rows(engine) == before
    migrate.upgrade(engine)
    with sessions(engine)() as session:
        assert session.scalars(sa.select(JobRow.tenant_id)).all() == [DEFAULT_TENANT]
