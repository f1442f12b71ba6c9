"""What an operator does with the database itself: `python -m service.admin COMMAND`, the arguments as JSON on stdin.

The command line runs it as a process, since `redeem` knows no database. It writes one JSON document to stdout: what the
command gives, or `{"error": {"code", "detail", "hint"}}` with exit code 2. A command is a function of the settings and
its arguments by name, and a line in `COMMANDS`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from obstore.exceptions import BaseError

from service import audit_admin, backup, blobs, database, key_admin, log, migrate, shared_parts, signing, upkeep
from service.context import open_context
from service.errors import UNAVAILABLE, DatabaseUnavailable, ServiceError
from service.settings import Settings
from service.store import open_store

Answer = dict[str, Any]


def upgrade(settings: Settings) -> Answer:
    """Bring the database to the newest migration."""
    engine = database.open_engine(settings)
    try:
        migrate.upgrade(engine)
    finally:
        engine.dispose()
    return check(settings)


def check(settings: Settings) -> Answer:
    """Where the database is, and where it should be."""
    engine = database.open_engine(settings)
    try:
        with engine.connect() as connection:
            revision, fits = migrate.revision(connection), migrate.fits(connection)
        return {"database": engine.dialect.name, "revision": revision, "newest": migrate.head(), "fits": fits}
    finally:
        engine.dispose()


def collect_garbage(settings: Settings) -> Answer:
    """Delete what is older than the retention, and bytes that nothing names, as the server does every hour."""
    engine = database.open_engine(settings)
    try:
        return {"removed": upkeep.clean(open_context(settings, engine))}
    finally:
        engine.dispose()


def compare_blobs(settings: Settings) -> Answer:
    """What the rows name beside what is in the store."""
    engine = database.open_engine(settings)
    try:
        with database.readers(engine)() as session:
            return asdict(blobs.compare(session, open_store(settings)))
    finally:
        engine.dispose()


def restore(settings: Settings, file: str) -> Answer:
    """Put a backup in the place of the database, and compare it with the store, as far as that answers."""
    restored = backup.restore(settings, file)
    try:
        compared = compare_blobs(settings)
    except (BaseError, OSError, ValueError) as error:
        compared = {"error": str(error).partition("\n")[0]}  # obstore appends pages of its own
    return restored | {"blobs": compared}


def rotate_signing_key(settings: Settings) -> Answer:
    """Sign with a new key from now on. What the old one signed stays good."""
    engine = database.open_engine(settings)
    try:
        return signing.rotate(settings, database.sessions(engine)).model_dump(mode="json")
    finally:
        engine.dispose()


COMMANDS: dict[str, Callable[..., Answer]] = {
    "db upgrade": upgrade,
    "db check": check,
    "doctor": shared_parts.look,
    "db gc": collect_garbage,
    "db blobs": compare_blobs,
    "db backup": backup.back_up,
    "db restore": restore,
    "signing rotate": rotate_signing_key,
    "audit verify": audit_admin.verify,
    "audit export": audit_admin.export,
    "tenants create": key_admin.create_tenant,
    "tenants list": key_admin.list_tenants,
    "keys create": key_admin.create_key,
    "keys list": key_admin.list_keys,
    "keys revoke": key_admin.revoke_key,
    "keys rotate": key_admin.rotate_key,
}


def main(command: str, arguments: Answer, settings: Settings | None = None) -> int:
    """Run a command and write its answer. Gives the exit code."""
    log.configure()  # to stderr: stdout is for the answer
    try:
        answer = COMMANDS[command](settings or Settings(), **arguments)
    except ServiceError as error:
        answer = _error(error)
    except UNAVAILABLE as error:
        # SQLAlchemy's own words hold the statement; the driver's say what is wrong.
        answer = _error(DatabaseUnavailable(f"The database does not answer: {getattr(error, 'orig', None) or error}."))
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 2 if "error" in answer else 0


def _error(error: ServiceError) -> Answer:
    return {"error": {"code": error.code, "detail": str(error), "hint": error.hint}}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], json.loads(sys.stdin.read() or "{}")))
