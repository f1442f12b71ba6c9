"""Bring the database to the newest migration, or tell whether it is there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file of its own: the scripts are found beside the installed package."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine) -> None:
    """To the newest migration, in one transaction. Whoever comes second waits, and finds nothing to do."""
    with engine.begin() as connection:
        command.upgrade(config(connection), "head")


def is_at_head(connection: Connection) -> bool:
    return revision(connection) == head()


def revision(connection: Connection) -> str | None:
    """Of the last migration that was run here; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    return ScriptDirectory.from_config(config()).get_current_head()
