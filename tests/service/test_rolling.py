"""While a release rolls in, processes of the one before work on the database that it has migrated (CONTRIBUTING.md).

Their code is not here. What they do to a table is: they write and read the columns that it had, all of them and no
others. So that is done to the tables that the newest migration leaves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from fastapi.testclient import TestClient
from sqlalchemy import Engine
from sqlalchemy.orm import Mapper, Session

from service import migrate
from service.app import create_app
from service.database import open_engine
from service.settings import Settings
from service.tables import Base
from tests.service.rows import fill, read, reflected


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


def contracting() -> dict[str, str]:
    """The migrations after which older code works no longer, and before which release."""
    scripts = ScriptDirectory.from_config(migrate.config()).walk_revisions()
    return {script.revision: script.module.contracts for script in scripts if hasattr(script.module, "contracts")}


def still_served() -> list[str]:
    """The migrations whose code still works on the newest: those since the last that contracts."""
    known = migrate.known()
    return known[known.index(max(contracting(), key=known.index)) : -1]


def test_there_are_older_migrations_to_look_at() -> None:
    assert still_served()
    assert set(contracting()) < set(migrate.known())


@pytest.mark.parametrize("older", still_served())
def test_code_of_an_older_migration_reads_and_writes_as_ever(engine: Engine, older: str) -> None:
    migrate.upgrade(engine, older)
    with engine.begin() as connection:
        tables = reflected(connection)
        fill(connection, tables, 1)
        before = read(connection, tables)
    migrate.upgrade(engine)
    with engine.begin() as connection:
        assert read(connection, tables) == before
        for generation in (2, 3):
            fill(connection, tables, generation)
    with Session(engine) as session:
        for mapper in Base.registry.mappers:
            assert_todays_code_reads(session, mapper)
    with engine.begin() as connection:
        for table in reversed(tables.sorted_tables):
            values = {column.name: column for column in table.columns if not column.primary_key}
            if values and table.name != "audit_log":  # to which rows are only added
                assert connection.execute(sa.update(table).values(values)).rowcount >= 3
                connection.execute(sa.delete(table))


def assert_todays_code_reads(session: Session, mapper: Mapper[Any]) -> None:
    for row in session.scalars(sa.select(mapper.class_)):
        for column in mapper.columns:
            assert column.nullable or getattr(row, column.key) is not None, f"{mapper.class_.__name__}.{column.key}"


def test_the_api_of_the_release_before_starts_and_is_ready(postgres_url: str, tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, database_url=postgres_url)
    engine = open_engine(settings)
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with TestClient(create_app(settings)) as client:
        assert client.get("/readyz").json()["checks"]["migrations"] == "ok"


def test_what_is_contracted_says_in_which_release() -> None:
    for release in contracting().values():
        assert re.fullmatch(r"before the first release|\d+\.\d+\.\d+", release)
