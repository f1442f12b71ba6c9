from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import event, exc, text

from service import database
from service.settings import Settings


def test_threads_take_turns_and_do_not_race_for_the_file(tmp_path: Path) -> None:
    engine = database.open_engine(Settings(data=tmp_path, database_url=""))
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA busy_timeout=0"))
    sessions = database.sessions(engine)
    with sessions.begin() as session:
        session.execute(text("CREATE TABLE numbers (number INTEGER)"))

    def write(number: int) -> None:  # whoever meets another writer is refused now
        with sessions.begin() as session:
            session.execute(text("INSERT INTO numbers VALUES (:number)"), {"number": number})
            time.sleep(0.01)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(write, range(40)))
    with sessions() as session:
        assert session.scalar(text("SELECT count(*) FROM numbers")) == 40
    engine.dispose()


def test_who_gets_no_turn_is_told_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.open_engine(Settings(data=tmp_path, database_url=""))
    sessions = database.sessions(engine)
    monkeypatch.setattr(database, "PATIENCE", database.PATIENCE / 100)
    refused: list[Exception] = []

    def write() -> None:
        try:
            with sessions.begin():
                pass
        except exc.TimeoutError as error:
            refused.append(error)

    with sessions.begin():
        other = threading.Thread(target=write)
        other.start()
        other.join(5)
    assert len(refused) == 1
    with sessions.begin() as session:  # and the turn is free again
        session.execute(text("SELECT 1"))
    engine.dispose()


def test_who_looks_needs_no_turn(tmp_path: Path) -> None:
    engine = database.open_engine(Settings(data=tmp_path, database_url=""))
    with database.sessions(engine).begin() as writing:
        writing.execute(text("CREATE TABLE numbers (number INTEGER)"))
        with database.readers(engine)() as reading:
            assert reading.scalar(text("SELECT 1")) == 1
    engine.dispose()
