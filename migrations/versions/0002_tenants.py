"""Tenants own what is there; API keys have a prefix, scopes and an end

What there was before belongs to the tenant `default`. Its keys may do everything, as they could.

Revision: 0002, after 0001
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
contracts = "before the first release"

Json = sa.JSON().with_variant(JSONB(), "postgresql")

DEFAULT = UUID("00000000-0000-7000-8000-000000000000")
EVERYTHING = ["admin", "jobs:write", "read", "uploads:write"]
OWNED = ("api_keys", "idempotency_keys", "uploads", "models", "bundles", "jobs")


def upgrade() -> None:
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
        sa.UniqueConstraint("name", name=op.f("uq_tenants_name")),
    )
    op.bulk_insert(tenants, [{"id": DEFAULT, "name": "default", "created_at": datetime.now(UTC)}])
    for table in OWNED:
        op.add_column(table, sa.Column("tenant_id", sa.Uuid(), nullable=True))
        owned = sa.table(table, sa.column("tenant_id", sa.Uuid()))
        op.execute(owned.update().values(tenant_id=DEFAULT))
        with op.batch_alter_table(table) as batch:
            batch.alter_column("tenant_id", nullable=False)
            batch.create_foreign_key(op.f(f"fk_{table}_tenant_id"), "tenants", ["tenant_id"], ["id"])
    with op.batch_alter_table("idempotency_keys") as batch:
        batch.drop_constraint(op.f("pk_idempotency_keys"), type_="primary")
        batch.create_primary_key(op.f("pk_idempotency_keys"), ["tenant_id", "key_hash"])
    for table in ("uploads", "models", "bundles", "jobs"):
        op.create_index(op.f(f"ix_{table}_tenant_id_id"), table, ["tenant_id", "id"])
    op.create_index(op.f("ix_jobs_tenant_id_state_id"), "jobs", ["tenant_id", "state", "id"])
    _upgrade_keys()


def _upgrade_keys() -> None:
    for name in ("expires_at", "revoked_at", "last_used_at"):
        op.add_column("api_keys", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
    op.add_column("api_keys", sa.Column("prefix", sa.String(length=16), nullable=True))
    op.add_column("api_keys", sa.Column("scopes", Json, nullable=True))
    keys = sa.table(
        "api_keys", *(sa.column(name, sa.String()) for name in ("hash", "prefix")), sa.column("scopes", Json)
    )
    op.execute(keys.update().values(prefix=sa.func.substr(keys.c.hash, 1, 12), scopes=EVERYTHING))
    with op.batch_alter_table("api_keys") as batch:
        batch.alter_column("prefix", nullable=False)
        batch.alter_column("scopes", nullable=False)
        batch.create_unique_constraint(op.f("uq_api_keys_prefix"), ["prefix"])


def downgrade() -> None:
    with op.batch_alter_table("api_keys") as batch:
        batch.drop_constraint(op.f("uq_api_keys_prefix"), type_="unique")
        for name in ("scopes", "prefix", "last_used_at", "revoked_at", "expires_at"):
            batch.drop_column(name)
    op.drop_index(op.f("ix_jobs_tenant_id_state_id"), "jobs")
    for table in ("jobs", "bundles", "models", "uploads"):
        op.drop_index(op.f(f"ix_{table}_tenant_id_id"), table)
    _forget_keys_that_two_tenants_used()
    with op.batch_alter_table("idempotency_keys") as batch:
        batch.drop_constraint(op.f("pk_idempotency_keys"), type_="primary")
        batch.create_primary_key(op.f("pk_idempotency_keys"), ["key_hash"])
    for table in reversed(OWNED):
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(op.f(f"fk_{table}_tenant_id"), type_="foreignkey")
            batch.drop_column("tenant_id")
    op.drop_table("tenants")


def _forget_keys_that_two_tenants_used() -> None:
    used = sa.table("idempotency_keys", sa.column("key_hash"), sa.column("tenant_id"))
    twice = sa.select(used.c.key_hash).group_by(used.c.key_hash).having(sa.func.count() > 1)
    op.execute(used.delete().where(used.c.key_hash.in_(twice)))
