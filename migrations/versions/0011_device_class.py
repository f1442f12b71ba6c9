"""Which class of workers a job has to run on

Revision: 0011, after 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("device_class", sa.String(32), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "device_class")
