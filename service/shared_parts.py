"""Database, broker and store, tried as a worker of this host would use them: `redeem doctor` where hosts share them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import obstore
import redis
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore
from sqlalchemy import URL, Connection, make_url, select
from sqlalchemy.exc import SQLAlchemyError

from redeem.checks import Check
from service import database, migrate, queue
from service.clock import from_now
from service.settings import Settings
from service.store import open_store
from service.tables import new_id

PATIENCE = timedelta(seconds=5)
"""With a part that does not answer."""
SKEW = timedelta(seconds=5)
"""Between this host's clock and the database's. Leases bear any; tokens, S3 and the ages of files bear minutes."""


def look(settings: Settings) -> dict[str, Any]:
    """All checks, in the order in which a job meets these parts."""
    checks = [*database_checks(settings), *broker_checks(settings), store_check(settings)]
    return {"checks": [asdict(check) for check in checks]}


def database_checks(settings: Settings) -> Iterator[Check]:
    """Of the connection first; of the rest where there is one."""
    mend = "Check REDEEM_DATABASE_URL, and that the database lets this host in."
    try:
        url = make_url(settings.database)
        shown = url.render_as_string(hide_password=True)
        if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
            own = "Hosts share a database by REDEEM_DATABASE_URL; without it the first start makes one here."
            yield Check("database", "note", f"{shown} is not there yet", own)
            return
        engine = database.open_engine(settings.model_copy(update={"database_url": _impatient(url)}))
        try:
            with engine.connect() as connection:
                yield from _database_checks(connection, shown)
        finally:
            engine.dispose()
    except ImportError as error:
        yield Check("database", "bad", f"its driver is not installed: {error}", "pip install 'redeem[postgres]'")
    except (SQLAlchemyError, ValueError) as error:
        yield Check("database", "bad", _first_line(getattr(error, "orig", None) or error), mend)


def _impatient(url: URL) -> str:
    patient = url.get_backend_name() != "postgresql" or "connect_timeout" in url.query
    patience = {} if patient else {"connect_timeout": f"{PATIENCE.total_seconds():.0f}"}
    return url.update_query_dict(patience).render_as_string(hide_password=False)


def _database_checks(connection: Connection, shown: str) -> Iterator[Check]:
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    yield Check("database", "ok", f"{shown} answers: {connection.dialect.name} {version}")
    if connection.dialect.name == "postgresql":
        if connection.exec_driver_sql("SHOW transaction_read_only").scalar() == "on":
            yield Check("writing", "bad", "the database can only be read", "Name the primary, not a replica.")
    else:
        yield Check("sharing", "note", "SQLite serves one host", "Hosts share a PostgreSQL, by REDEEM_DATABASE_URL.")
    yield migration_check(connection)
    yield clock_check(connection)


def migration_check(connection: Connection) -> Check:
    at, newest = migrate.revision(connection), migrate.head()
    if at == newest:
        return Check("migration", "ok", f"{at}, the newest")
    if migrate.fits(connection):
        return Check("migration", "note", f"{at}, of a newer release than this one", "Upgrade this host soon.")
    return Check("migration", "bad", f"{at or 'none'}, not {newest}", "Run `redeem db upgrade`.")


def clock_check(connection: Connection, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Check:
    """`now` is this host's clock."""
    before = now()
    theirs = connection.scalar(select(from_now()))
    after = now()
    assert theirs is not None  # noqa: S101  a clock always shows something
    ahead = (before + (after - before) / 2 - theirs).total_seconds()
    detail = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the database's"
    if abs(ahead) < SKEW.total_seconds():
        return Check("clock", "ok", detail)
    return Check("clock", "note", detail, "Set the clocks of both hosts by NTP: chronyc tracking, timedatectl.")


def broker_checks(settings: Settings) -> Iterator[Check]:
    if not settings.broker_url:
        yield Check("broker", "bad", "none is set", "Name it by REDEEM_BROKER_URL, as for all hosts.")
        return
    try:
        parts = urlsplit(settings.broker_url)
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without the password
        asked = queue.publisher(settings)
        try:
            count = sum(queue.waiting(asked, one) for one in (None, *settings.device_class_names))
        finally:
            asked.close()
        yield Check("broker", "ok", f"{shown} answers: {count} messages wait")
        if parts.scheme in ("redis", "rediss"):
            yield from _redis_checks(settings)
    except (queue.BrokerUnavailable, ImportError, KeyError, ValueError) as error:
        mend = "Check REDEEM_BROKER_URL, its password, and that the broker lets this host in."
        yield Check("broker", "bad", _first_line(error), mend)


def _redis_checks(settings: Settings) -> Iterator[Check]:
    timeout = PATIENCE.total_seconds()
    try:
        asked = redis.Redis.from_url(settings.broker_url, socket_timeout=timeout, socket_connect_timeout=timeout)
        with asked as client:
            memory: dict[str, Any] = client.info("memory")
            kept: dict[str, Any] = client.info("persistence")
            saves = str(client.config_get("save").get("save", ""))
    except redis.RedisError as error:  # a hosted one need not tell
        yield Check("broker's settings", "note", f"it does not tell them: {_first_line(error)}")
        return
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        yield Check("broker's memory", "ok", "nothing is thrown away when it is full")
    else:
        detail = f"maxmemory-policy is {policy}: when its memory is full, messages are thrown away"
        yield Check("broker's memory", "note", detail, "Set maxmemory-policy noeviction.")
    if kept.get("aof_enabled") or saves:
        yield Check("broker's disk", "ok", "appendonly yes" if kept.get("aof_enabled") else f"save {saves}")
    else:
        detail = "after a restart its messages are gone, and sent again from the database"
        yield Check("broker's disk", "note", detail, "Set appendonly yes to spare that.")


def store_check(settings: Settings) -> Check:
    shown = settings.store_url or str(settings.store)
    if not settings.store_url and not settings.store.exists():
        mend = "Hosts share a store by REDEEM_STORE_URL, or this folder by a volume; the first start makes it."
        return Check("store", "note", f"{shown} is not there yet", mend)
    try:
        whole = _round_trip(open_store(settings, PATIENCE))
    except (PermissionDeniedError, UnauthenticatedError) as error:
        mend = "Check the keys (AWS_…, REDEEM_STORE_OPTIONS): they have to put, list, get and delete objects."
        return Check("store", "bad", f"{shown}: {_first_line(error)}", mend)
    except FileNotFoundError as error:
        mend = "Make the bucket, or name the right one in REDEEM_STORE_URL."
        return Check("store", "bad", f"{shown}: {_first_line(error)}", mend)
    except (BaseError, OSError, ValueError) as error:
        mend = "Check REDEEM_STORE_URL and REDEEM_STORE_OPTIONS, and that this host reaches the store."
        return Check("store", "bad", f"{shown}: {_first_line(error)}", mend)
    if not whole:
        return Check("store", "bad", f"{shown} does not give back what it was given", "Use a store that is consistent.")
    if not settings.store_url:
        mend = "Hosts share a store by REDEEM_STORE_URL, or this folder by a volume."
        return Check("store", "note", f"{shown} works, a folder", mend)
    return Check("store", "ok", f"{shown}: written, listed, read and deleted")


def _round_trip(store: ObjectStore) -> bool:
    """Whether a small object that was written is found, and has its bytes. It is deleted."""
    key, content = f"probes/{new_id()}", secrets.token_bytes(1024)
    obstore.put(store, key, content)
    try:
        found = {entry["path"] for entry in obstore.list(store, "probes").collect()}
        return key in found and bytes(obstore.get(store, key).bytes()) == content
    finally:
        obstore.delete(store, key)


def _first_line(error: object) -> str:
    """Libraries append hints and pages of their own."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
