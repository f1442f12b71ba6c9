from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect

from service import migrate
from service.database import open_engine
from service.settings import Settings
from service.tables import Base


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


def test_up_down_and_up_again(engine: Engine) -> None:
    migrate.upgrade(engine)
    first = described(engine)
    with engine.connect() as connection:
        assert migrate.is_at_head(connection)
    migrate.downgrade(engine, "base")
    assert described(engine) == {}
    with engine.connect() as connection:
        assert not migrate.is_at_head(connection)
    migrate.upgrade(engine)
    assert described(engine) == first


def test_a_second_upgrade_at_the_same_time_waits_and_finds_nothing_to_do(settings: Settings, engine: Engine) -> None:
    program = (
        "from service import database, migrate, settings; migrate.upgrade(database.open_engine(settings.Settings()))"
    )
    variables = {"REDEEM_DATA": str(settings.data), "REDEEM_DATABASE_URL": settings.database_url}
    processes = [subprocess.Popen([sys.executable, "-c", program], env=os.environ | variables) for _ in range(2)]
    assert [process.wait(120) for process in processes] == [0, 0]
    with engine.connect() as connection:
        assert migrate.is_at_head(connection)


def test_there_is_one_newest_migration() -> None:
    assert migrate.head() is not None
