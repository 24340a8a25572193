"""Adds the id of the trace that a request belongs to, as its client's `traceparent` has it.

Workers of the code before this migration leave it NULL.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.add_column(
        "activity", sa.Column("trace_id", sa.Text(), comment="of the client's traceparent; NULL if there was none")
    )


def downgrade() -> None:
    op.drop_column("activity", "trace_id")
