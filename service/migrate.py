"""Bring the database to the newest migration, or tell whether it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import migrations
from service.errors import ServiceError


class NewerDatabase(ServiceError):
    code = "database_newer"
    hint = "Run the release that migrated it, or a newer one."


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file of its own: the scripts are found beside the installed package."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.attributes["connection"] = connection
    return made


def upgrade(engine: Engine) -> None:
    """To the newest migration, in one transaction. Whoever comes second waits, and finds nothing to do."""
    with _altering(engine) as connection:
        command.upgrade(config(connection), "head")


def downgrade(engine: Engine, revision: str) -> None:
    """Back to an older migration, or to `base`: nothing. What newer tables and columns held is lost."""
    with _altering(engine) as connection:
        command.downgrade(config(connection), revision)


@contextmanager
def _altering(engine: Engine) -> Iterator[Connection]:
    """A transaction. SQLite alters a table by making it anew, which it bears only while it does not look after foreign
    keys; they are checked before the commit instead."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            yield connection
        return
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None  # noqa: S101  a connection that is open has one
        driver.execute("PRAGMA foreign_keys=OFF")  # not inside a transaction, where SQLite ignores it
        try:
            with connection.begin():
                yield connection
                if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                    raise RuntimeError(f"the migration leaves rows that refer to nothing: {broken[:5]}")
        finally:
            driver.execute("PRAGMA foreign_keys=ON")


def is_at_head(connection: Connection) -> bool:
    return revision(connection) == head()


def revision(connection: Connection) -> str | None:
    """Of the last migration that was run here; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    return ScriptDirectory.from_config(config()).get_current_head()


def require_known(revision: str) -> None:
    """Raise NewerDatabase where this code has no such migration."""
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if revision not in known:
        raise NewerDatabase(f"The database is at migration {revision}; this release knows those up to {head()}.")
