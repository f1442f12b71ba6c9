from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import Column, Engine, MetaData, Table, insert, select

from service.clock import from_now
from service.tables import UtcDateTime, now

SECOND = timedelta(seconds=1)


@pytest.fixture
def database_url(either_database: str) -> str:
    return either_database


@pytest.mark.parametrize("delay", [timedelta(0), timedelta(seconds=30.25), timedelta(days=-40, milliseconds=5)])
def test_it_is_the_time_here_and_now_after_a_delay(engine: Engine, delay: timedelta) -> None:
    with engine.connect() as connection:
        told = connection.scalar(select(from_now(delay)))
    assert told is not None
    assert abs(told - (now() + delay)) < SECOND  # database and test share a host


def test_it_compares_with_times_that_were_written_from_here(engine: Engine) -> None:
    """SQLite compares times as text: both sides have to write them alike."""
    times = Table("times", MetaData(), Column("at", UtcDateTime))
    early, late = now() - 5 * SECOND, now() + 5 * SECOND
    with engine.begin() as connection:
        times.create(connection)
        connection.execute(insert(times), [{"at": early}, {"at": late}])
        past = connection.scalars(select(times.c.at).where(times.c.at < from_now())).all()
        soon = connection.scalars(select(times.c.at).where(times.c.at < from_now(6 * SECOND))).all()
    assert past == [early]
    assert soon == [early, late]


def test_it_moves_within_a_transaction(engine: Engine) -> None:
    """A long transaction must not write a lease that was over before it committed."""
    with engine.connect() as connection:
        first = connection.scalar(select(from_now()))
        connection.exec_driver_sql("SELECT pg_sleep(0.05)" if engine.dialect.name == "postgresql" else "SELECT 1")
        second = connection.scalar(select(from_now()))
    assert first is not None
    assert second is not None
    assert second > first or engine.dialect.name == "sqlite"
