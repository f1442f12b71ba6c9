"""Bring the database to the newest migration, or tell whether it is there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

import migrations
from service.errors import ServiceError


class MigrationBlocked(ServiceError):
    code = "migration_blocked"
    hint = "Nothing was changed; try again when less goes on. PostgreSQL's pg_stat_activity shows long transactions."


class NewerDatabase(ServiceError):
    code = "database_newer"
    hint = "Run the release that migrated it, or a newer one."


def config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, without a file of its own: the scripts are found beside the installed package."""
    made = Config()
    made.set_main_option("script_location", str(Path(migrations.__file__).parent))
    made.attributes["connection"] = connection
    return made


ONE_AT_A_TIME = 7274496
"""PostgreSQL's advisory lock of whoever migrates. SQLite has one writer at a time."""
TURN = timedelta(minutes=10)
"""How long to wait for another migration to end, on PostgreSQL."""
PATIENCE = timedelta(seconds=5)
"""How long to wait for a table there. Everybody who wants that table meanwhile waits behind the migration."""


def upgrade(engine: Engine, to: str = "head") -> None:
    """To the newest migration, or up to an older one, in one transaction. Whoever comes second waits, and finds nothing
    to do. Raises NewerDatabase, and MigrationBlocked with nothing changed."""
    with _altering(engine) as connection:
        require_known(revision(connection))
        command.upgrade(config(connection), to)


def downgrade(engine: Engine, to: str) -> None:
    """Back to an older migration, or to `base`: nothing. What newer tables and columns held is lost. Raises what
    `upgrade` raises."""
    with _altering(engine) as connection:
        require_known(revision(connection))
        command.downgrade(config(connection), to)


@contextmanager
def _altering(engine: Engine) -> Iterator[Connection]:
    """A transaction, one at a time."""
    try:
        with _alone(engine) if engine.dialect.name == "postgresql" else _unwatched(engine) as connection:
            yield connection
    except OperationalError as error:
        if _is_blocked(error.orig):
            raise MigrationBlocked(f"Another transaction did not let go of what is migrated: {error.orig}.") from error
        raise


def _is_blocked(error: BaseException | None) -> bool:
    blocked = getattr(error, "sqlstate", None) == "55P03"  # lock_not_available
    return blocked or getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """Waits long for other migrations, which keep nobody from working, and briefly for tables."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{TURN.total_seconds():.0f}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ONE_AT_A_TIME})")
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{PATIENCE.total_seconds():.0f}s'")
        yield connection


@contextmanager
def _unwatched(engine: Engine) -> Iterator[Connection]:
    """SQLite alters a table by making it anew, which it bears only while it does not look after foreign keys; they are
    checked before the commit instead."""
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


def fits(connection: Connection) -> bool:
    """Whether this code can work on the database: it is at the newest migration that this code knows, or at one that it
    does not know yet. A release migrates so that the one before goes on working (CONTRIBUTING.md)."""
    at = revision(connection)
    return at is not None and (at == head() or at not in known())


def revision(connection: Connection) -> str | None:
    """Of the last migration that was run here; None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def head() -> str:
    return known()[-1]


@cache
def known() -> Sequence[str]:
    """The migrations of this release, oldest first. Every probe of readiness asks, and the files do not change."""
    return [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()][::-1]


def require_known(at: str | None) -> None:
    """Raise NewerDatabase where this code has no such migration."""
    if at is not None and at not in known():
        raise NewerDatabase(f"The database is at migration {at}; this release knows those up to {head()}.")
