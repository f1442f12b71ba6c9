"""The database's clock, in the database's own words. Leases and patience are measured by it alone: hosts may disagree
about the time by minutes, and a lease that one of them wrote is judged by another."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from service.tables import UtcDateTime


class from_now(ColumnElement[datetime]):  # noqa: N801  it reads as the SQL function that it is
    """What the database's clock will show after `delay`; before, where that is negative."""

    inherit_cache = False  # the delay is part of the text
    type = UtcDateTime()

    def __init__(self, delay: timedelta = timedelta(0)) -> None:
        self.seconds = delay.total_seconds()


@compiles(from_now, "sqlite")
def _sqlite(element: from_now, compiler: SQLCompiler, **_: Any) -> str:
    # As SQLAlchemy writes a time there, with six digits of a second: times are compared as text.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', '{element.seconds:+.3f} seconds')"


@compiles(from_now, "postgresql")
def _postgresql(element: from_now, compiler: SQLCompiler, **_: Any) -> str:
    return f"clock_timestamp() + make_interval(secs => {element.seconds!r})"
