"""The jobs that name a bundle are found by it

Revision: 0012, after 0011
"""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("clean_id", "triggered_id"):
        op.create_index(op.f(f"ix_jobs_{column}"), "jobs", [column])


def downgrade() -> None:
    for column in ("triggered_id", "clean_id"):
        op.drop_index(op.f(f"ix_jobs_{column}"), "jobs")
