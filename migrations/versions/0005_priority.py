"""Jobs have a priority among those of their tenant

Revision: 0005, after 0004
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
contracts = "before the first release"


def upgrade() -> None:
    op.add_column("jobs", sa.Column("priority", sa.SmallInteger(), nullable=False, server_default="5"))
    with op.batch_alter_table("jobs") as batch:
        batch.alter_column("priority", server_default=None)


def downgrade() -> None:
    op.drop_column("jobs", "priority")
