"""A tenant's uploads are found by their hash

Revision: 0007, after 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("ix_uploads_tenant_id_sha256"), "uploads", ["tenant_id", "sha256"])


def downgrade() -> None:
    op.drop_index(op.f("ix_uploads_tenant_id_sha256"), "uploads")
