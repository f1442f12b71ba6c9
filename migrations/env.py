"""How Alembic runs the migrations: on the connection that `service.migrate` gives it."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from service.tables import Base, UtcDateTime


def render_item(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """What a new migration writes for our own types: the plain ones beneath, so that it stands without our code."""
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    # One at a time; the lock goes with the transaction.
    connection.exec_driver_sql("SET LOCAL lock_timeout = '30s'")
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7274496)")

context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
