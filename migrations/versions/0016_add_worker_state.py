"""Adds what each worker says of its own state, with every sign of life.

Workers of the code before this migration leave it NULL.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.add_column(
        "worker", sa.Column("state", JSONB(), comment="what it said of itself when it was last seen; NULL if nothing")
    )


def downgrade() -> None:
    op.drop_column("worker", "state")
