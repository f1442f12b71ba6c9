"""Rows for every table of a database, at whatever migration it is: what code of that time could have written."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

Rows = dict[str, list[dict[str, Any]]]


def reflected(connection: sa.Connection) -> sa.MetaData:
    tables = sa.MetaData()
    tables.reflect(connection)
    tables.remove(tables.tables["alembic_version"])
    return tables


def fill(connection: sa.Connection, tables: sa.MetaData, generation: int) -> None:
    """A row in each table, with a value in every column, all of them of one family: they refer to each other."""
    written: dict[str, dict[str, Any]] = {}
    for table in tables.sorted_tables:
        allowed = _allowed(connection, table)
        row = {column.name: _value(column, generation, allowed, written) for column in table.columns}
        connection.execute(table.insert(), row)
        written[table.name] = row


def read(connection: sa.Connection, tables: sa.MetaData) -> Rows:
    """All rows of these tables, with these columns."""
    return {
        table.name: sorted((dict(row) for row in connection.execute(sa.select(table)).mappings()), key=str)
        for table in tables.sorted_tables
    }


def only(rows: Rows, tables: sa.MetaData) -> Rows:
    """What of the rows those tables have a place for."""
    kept = {name: each for name, each in rows.items() if name in tables.tables}
    columns = {name: tables.tables[name].c for name in kept}
    return {
        name: sorted(({key: row[key] for key in row if key in columns[name]} for row in each), key=str)
        for name, each in kept.items()
    }


def _allowed(connection: sa.Connection, table: sa.Table) -> dict[str, list[str]]:
    """Of columns with a list of values in a check that is named for them."""
    prefix = f"ck_{table.name}_"
    return {
        str(check["name"]).removeprefix(prefix): re.findall(r"'(\w+)'", check["sqltext"])
        for check in sa.inspect(connection).get_check_constraints(table.name)
    }


def _value(
    column: sa.Column[Any], generation: int, allowed: dict[str, list[str]], written: dict[str, dict[str, Any]]
) -> Any:
    for key in column.foreign_keys:
        return written[key.column.table.name][key.column.name]
    if values := allowed.get(column.name):
        return values[generation % len(values)]
    match column.type:
        case sa.JSON():  # PostgreSQL's JSONB too
            return {"generation": generation}
        case sa.DateTime():
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=generation)
            return moment if getattr(column.type, "timezone", False) else moment.replace(tzinfo=None)
        case sa.CHAR(length=32):  # how SQLite keeps an id
            return f"{generation:032x}"
        case sa.Uuid():
            return UUID(int=generation)
        case sa.String(length=length):
            return f"{column.name} {generation}"[-(length or 100) :]
        case sa.Boolean():
            return bool(generation % 2)
        case sa.Integer():
            return generation
        case sa.Float():
            return generation / 10
    raise NotImplementedError(f"{column}: {column.type!r}")
