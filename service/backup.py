"""The SQLite database as one file, copied while others write to it, and put back in its place while nobody uses it.

What the rows name lies in the store and is not in it (`service.blobs` compares the two). A file only gets its name once
it is whole, was checked and is on the disk.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url

from redeem.errors import ServeError
from redeem.local.folder import locked
from service import audit, database, migrate
from service.errors import ServiceError
from service.settings import Settings
from service.store import sync


class NotSqlite(ServiceError):
    code = "not_sqlite"
    hint = "Run: {command}"

    def __init__(self, command: str) -> None:
        super().__init__("The database is not SQLite; PostgreSQL has its own tools for this.")
        self.hint = self.hint.format(command=command)


class NoDatabase(ServiceError):
    code = "no_database"
    hint = "Name the server's folder with --data or REDEEM_DATA."


class BackupUnwritable(ServiceError):
    code = "backup_unwritable"
    hint = "Name a file that is not there yet, in a folder that may be written and has room."


class NotABackup(ServiceError):
    code = "not_a_backup"
    hint = "Name a file that `redeem db backup` made."


class DatabaseDamaged(ServiceError):
    code = "database_damaged"
    hint = "Restore a backup that is whole: `redeem db restore FILE` looks before it changes anything."


class DatabaseInUse(ServiceError):
    code = "database_in_use"
    hint = "Stop the server and its workers first."


@dataclass(frozen=True)
class Contents:
    """What a file holds, as it lies there."""

    file: str
    size: int
    sha256: str
    revision: str
    rows: dict[str, int]
    """By table."""


PG_DUMP = "pg_dump --format=custom --file={file} {url}"
PG_RESTORE = (  # into another database, so that this one stays
    "createdb --maintenance-db={url} {new} && pg_restore --single-transaction --dbname={new_url} {file}, "
    "and name that database in REDEEM_DATABASE_URL"
)


def back_up(settings: Settings, file: str) -> dict[str, Any]:
    """Copy the database into a new file, readable by its owner alone: everything that was committed when this began,
    checked. Others go on writing. Raises NotSqlite, NoDatabase, BackupUnwritable and DatabaseDamaged."""
    source, target = _file_of(settings, PG_DUMP, file), Path(file).absolute()
    if not source.exists():
        raise NoDatabase(f"There is no database at {source}.")
    if target.exists():
        raise BackupUnwritable(f"{target} is there already.")
    with _beside(target) as temporary:
        _copy(source, temporary)
        contents = examine(temporary)
        temporary.replace(target)
        sync(target)
    return asdict(contents) | {"file": str(target)}


def restore(settings: Settings, file: str) -> dict[str, Any]:
    """Put a backup in the place of the database, brought to the newest migration. What was there stays beside it, under
    the name that `replaced` tells. Raises NotSqlite, NotABackup, DatabaseDamaged, NewerDatabase and DatabaseInUse, and
    has changed nothing then."""
    source, target = Path(file).absolute(), _file_of(settings, PG_RESTORE, file).absolute()
    if target.exists() and source.exists() and source.samefile(target):
        raise NotABackup(f"{source} is the database itself.")
    with _alone(settings):
        contents = examine(source)
        with _beside(target) as temporary:
            _copy(source, temporary)
            _bring_forward(settings, temporary, contents)
            replaced = _put_in_place(temporary, target)
    return asdict(contents) | {"migrated": migrate.head(), "replaced": replaced}


def examine(file: Path) -> Contents:
    """Look through the whole file. Raises NotABackup, DatabaseDamaged and NewerDatabase."""
    try:
        with closing(_open(file, "ro")) as connection:
            faults = [fault for (fault,) in connection.execute("PRAGMA integrity_check(3)") if fault != "ok"]
            faults += [f"a row of {row[0]} names nothing" for row in connection.execute("PRAGMA foreign_key_check")]
            tables = [name for (name,) in connection.execute(TABLES)]
            revision = _revision(connection, tables)
            rows = {name: _count(connection, name) for name in tables if name != "alembic_version"}
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN):
            raise NotABackup(f"{file} cannot be read as a database: {error}.") from error
        raise DatabaseDamaged(f"{file} is damaged: {error}.") from error
    if faults:
        raise DatabaseDamaged(f"{file} is damaged: {'; '.join(faults[:3])}.")
    if revision is None:
        raise NotABackup(f"{file} is a database, but not one of Redeem.")
    migrate.require_known(revision)
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    return Contents(str(file), file.stat().st_size, sha256, revision, rows)


TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608  its own table


def _revision(connection: sqlite3.Connection, tables: list[str]) -> str | None:
    if not {"alembic_version", "jobs", "uploads"} <= {*tables}:
        return None
    found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return found and str(found[0])


def _file_of(settings: Settings, command: str, file: str) -> Path:
    """Where the database is. `command` does on PostgreSQL what was asked for."""
    url = make_url(settings.database)
    if url.get_backend_name() == "sqlite" and url.database:
        return Path(url.database)
    # Without the password: every user of a machine sees commands, and PGPASSWORD or ~/.pgpass can have it.
    bare = url.set(drivername="postgresql", password=None)
    other = bare.set(database=f"{bare.database}_restored")
    words = {
        "file": file,
        "url": bare.render_as_string(),
        "new": str(other.database),
        "new_url": other.render_as_string(),
    }
    raise NotSqlite(command.format(**{name: shlex.quote(word) for name, word in words.items()}))


def _open(file: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{file.absolute().as_uri()}?mode={mode}", uri=True, isolation_level=None)


def _copy(source: Path, empty: Path) -> None:
    """A snapshot, with what its write-ahead log holds and without what was deleted. It makes no writer wait."""
    try:
        with closing(_open(source, "ro")) as connection:
            connection.execute("VACUUM INTO ?", (str(empty),))
    except sqlite3.DatabaseError as error:
        code = error.sqlite_errorcode & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise DatabaseDamaged(f"{source} is damaged: not all of it can be read.") from error
        raise BackupUnwritable(f"{source} cannot be copied to {empty.parent}: {error}.") from error
    sync(empty)


@contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """An empty file in the same folder, readable by its owner alone; gone at the end, unless it was renamed."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-", suffix=".partial")
    except OSError as error:
        raise BackupUnwritable(f"{target.parent} cannot be written: {error.strerror}.") from error
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        for tail in ("", *SIDECARS):
            Path(f"{name}{tail}").unlink(missing_ok=True)


SIDECARS = ("-wal", "-shm", "-journal")
"""What SQLite may keep beside a database, by its name."""


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """While no server runs on the data folder, and none can start."""
    try:
        with locked(settings.data):
            yield
    except ServeError as error:
        raise (DatabaseInUse if error.code == "data_locked" else BackupUnwritable)(error.detail) from error


def _bring_forward(settings: Settings, file: Path, contents: Contents) -> None:
    """Migrate what comes back, and have its audit log tell of it: before it is in its place, so that whatever goes
    wrong changes nothing."""
    url = URL.create("sqlite", database=str(file)).render_as_string()
    engine = database.open_engine(settings.model_copy(update={"database_url": url}))
    try:
        migrate.upgrade(engine)
        with dataclasses.replace(database.sessions(engine), info={"actor": "operator"}).begin() as session:
            audit.note(session, "database.restored", contents.sha256)
    finally:
        engine.dispose()
    _settle(file)


def _put_in_place(new: Path, target: Path) -> str | None:
    """Give the name of what it replaces. At every moment there is a database under its name, the old or the new one."""
    kept = Path(f"{target}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
    was_there = target.exists()
    if os.geteuid() == 0:  # who restores need not be who runs the server
        owner = (target if was_there else target.parent).stat()
        os.chown(new, owner.st_uid, owner.st_gid)
    if was_there:
        _settle(target)
        os.link(target, kept)
    for tail in SIDECARS:  # of one that could not be opened; SQLite would take them for the new one's
        if (left := Path(f"{target}{tail}")).exists():
            left.rename(f"{kept}{tail}")
    new.replace(target)
    sync(target)
    return str(kept) if was_there else None


def _settle(file: Path) -> None:
    """Have everything in the one file. SQLite does that only for the last one who has it open: raises DatabaseInUse
    while somebody else does. What is too damaged to be opened stays as it is."""
    try:
        with closing(_open(file, "rw")) as connection:
            connection.execute("PRAGMA busy_timeout=1000")
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise DatabaseInUse(f"Another process has {file} open.") from error
    sync(file)
