"""Indexes the ids by which a client and a provider know a request.

A migration of its own: adding columns takes a lock that readers wait for, and an index of many days takes minutes.
Building one makes writers wait, and meanwhile the records stay in the journal.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

COLUMNS = ("client_request_id", "upstream_request_id")

PARTITIONS = "SELECT CAST(inhrelid AS regclass) FROM pg_inherits WHERE inhparent = to_regclass('activity')"


def upgrade() -> None:
    partitions = op.get_bind().execute(sa.text(PARTITIONS)).scalars().all()
    for column in COLUMNS:
        # A statement for each day stays below the statement timeout. The last one only attaches what these have built.
        for partition in partitions:
            op.execute(f"CREATE INDEX ON {partition} ({column}, started_at) WHERE {column} IS NOT NULL")
        op.create_index(
            f"ix_activity_{column}_started_at",
            "activity",
            [column, "started_at"],
            postgresql_where=sa.text(f"{column} IS NOT NULL"),
        )


def downgrade() -> None:
    for column in COLUMNS:
        op.drop_index(f"ix_activity_{column}_started_at", "activity")
