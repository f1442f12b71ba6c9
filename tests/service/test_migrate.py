from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect

from service import migrate
from service.database import open_engine
from service.settings import Settings
from service.tables import Base


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    made = open_engine(settings)
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


def test_migrations_make_what_the_models_say(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> None:
    migrate.upgrade(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    created = open_engine(Settings(data=tmp_path_factory.mktemp("created")))
    Base.metadata.create_all(created)
    assert described(engine) == described(created)
    created.dispose()


def test_up_down_and_up_again(engine: Engine) -> None:
    migrate.upgrade(engine)
    first = described(engine)
    with engine.begin() as connection:
        assert migrate.is_at_head(connection)
        command.downgrade(migrate.config(connection), "base")
    assert described(engine) == {}
    with engine.connect() as connection:
        assert not migrate.is_at_head(connection)
    migrate.upgrade(engine)
    assert described(engine) == first


def test_a_second_upgrade_at_the_same_time_waits_and_finds_nothing_to_do(settings: Settings) -> None:
    engines = [open_engine(settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.upgrade, engines))
    for engine in engines:
        with engine.connect() as connection:
            assert migrate.is_at_head(connection)
        engine.dispose()


def test_there_is_one_newest_migration() -> None:
    assert migrate.head() is not None
