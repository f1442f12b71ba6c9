"""How Alembic runs the migrations: on the connection that `service.migrate` gives it."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context

from service.tables import Base, UtcDateTime


def render_item(kind: str, item: Any, autogen_context: Any) -> str | Literal[False]:
    """What a new migration writes for our own types: the plain ones beneath, so that it stands without our code."""
    return "sa.DateTime(timezone=True)" if isinstance(item, UtcDateTime) else False


connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    render_item=render_item,
)
with context.begin_transaction():
    context.run_migrations()
