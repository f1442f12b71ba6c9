from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, inspect

from service import migrate
from service.database import open_engine
from service.settings import Settings
from service.tables import Base
from tests.service.rows import fill, only, read, reflected


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.fixture
def empty(settings: Settings) -> Iterator[Engine]:
    """Another database of the same kind."""
    if not settings.database_url:
        made = open_engine(settings.model_copy(update={"data": settings.data / "empty"}))
        yield made
    else:
        made = open_engine(settings)
        with made.begin() as connection:
            connection.exec_driver_sql("CREATE SCHEMA empty")
        made.dispose()
        made = open_engine(
            settings.model_copy(update={"database_url": f"{settings.database_url}&options=-csearch_path%3Dempty"})
        )
        yield made
    made.dispose()


def described(engine: Engine) -> dict[str, Any]:
    """Everything that the database knows of its tables, by name."""
    look = inspect(engine)
    return {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"]) for column in look.get_columns(table)
            },
            "key": look.get_pk_constraint(table),
            "foreign": sorted(map(str, look.get_foreign_keys(table))),
            "checks": sorted(map(str, look.get_check_constraints(table))),
            "indexes": sorted(map(str, look.get_indexes(table))),
            "unique": sorted(map(str, look.get_unique_constraints(table))),
        }
        for table in look.get_table_names()
        if table != "alembic_version"
    }


def test_migrations_make_what_the_models_say(engine: Engine, empty: Engine) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    Base.metadata.create_all(empty)
    assert described(engine) == described(empty)


def test_down_and_up_step_by_step_keeps_what_both_sides_have_a_place_for(engine: Engine) -> None:
    migrate.upgrade(engine)
    shape = described(engine)
    with engine.begin() as connection:
        tables = reflected(connection)
        for generation in (1, 2):
            fill(connection, tables, generation)
        rows = read(connection, tables)
    revisions = migrate.known()
    for older in reversed(revisions[:-1]):
        migrate.downgrade(engine, older)
        with engine.connect() as connection:
            tables = reflected(connection)
            rows, before = read(connection, tables), rows
            assert rows == only(before, tables), f"down to {older}"
    for newer in revisions[1:]:
        migrate.upgrade(engine, newer)
        with engine.connect() as connection:
            assert read(connection, tables) == rows, f"up to {newer}"
            tables = reflected(connection)
            rows = read(connection, tables)
    assert described(engine) == shape
    migrate.downgrade(engine, "base")
    assert described(engine) == {}
    with engine.connect() as connection:
        assert not migrate.fits(connection)


def test_a_second_upgrade_at_the_same_time_waits_and_finds_nothing_to_do(settings: Settings, engine: Engine) -> None:
    program = (
        "from service import database, migrate, settings; migrate.upgrade(database.open_engine(settings.Settings()))"
    )
    variables = {"REDEEM_DATA": str(settings.data), "REDEEM_DATABASE_URL": settings.database_url}
    processes = [subprocess.Popen([sys.executable, "-c", program], env=os.environ | variables) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    with engine.connect() as connection:
        assert migrate.fits(connection)


def test_there_is_one_newest_migration() -> None:
    assert ScriptDirectory.from_config(migrate.config()).get_heads() == [migrate.head()]


def test_a_migration_that_cannot_have_a_table_gives_up_and_changes_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", timedelta(seconds=1))
    engine = open_engine(Settings(data=tmp_path, database_url=postgres_url))
    migrate.upgrade(engine, "0005")
    before = described(engine)
    with engine.connect() as reading:
        reading.exec_driver_sql("SELECT count(*) FROM jobs")  # and the transaction stays open
        started = time.monotonic()
        with pytest.raises(migrate.MigrationBlocked, match="lock timeout"):
            migrate.upgrade(engine)
        assert 0.9 < time.monotonic() - started < 5
        assert described(engine) == before
        with engine.connect() as connection:
            assert migrate.revision(connection) == "0005"
    migrate.upgrade(engine)
    engine.dispose()


def test_a_migration_waits_for_another_longer_than_for_a_table(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "PATIENCE", timedelta(milliseconds=1))
    engine = open_engine(Settings(data=tmp_path, database_url=postgres_url))
    with ThreadPoolExecutor(1) as pool:
        with migrate._alone(engine):
            second = pool.submit(migrate.upgrade, engine)
            with pytest.raises(TimeoutError):
                second.result(1)
        second.result(20)
    with engine.connect() as connection:
        assert migrate.fits(connection)
    engine.dispose()


def test_a_locked_file_is_told_as_what_it_is(tmp_path: Path) -> None:
    engine = open_engine(Settings(data=tmp_path))
    with engine.connect() as impatient:
        impatient.exec_driver_sql("PRAGMA busy_timeout=10")  # of the connection that the pool gives next
    with closing(sqlite3.connect(tmp_path / "redeem.db")) as writer:
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(migrate.MigrationBlocked, match="locked"):
            migrate.upgrade(engine)
    migrate.upgrade(engine)
    engine.dispose()


def of_a_newer_release(engine: Engine) -> None:
    migrate.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")


def test_a_database_that_a_newer_release_migrated_is_not_migrated_here(engine: Engine) -> None:
    of_a_newer_release(engine)
    for alter in (migrate.upgrade, lambda engine: migrate.downgrade(engine, "0001")):
        with pytest.raises(migrate.NewerDatabase, match="at migration 9999"):
            alter(engine)
