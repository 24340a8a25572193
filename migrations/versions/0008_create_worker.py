"""Creates the registry of workers and their hosts.

It begins empty: workers of earlier versions write only worker_ledger, before this migration and beside it, so a ledger
line without a row here is one of theirs.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CLOSINGS = "'drained', 'left_rows', 'adopted', 'written_off'"


def upgrade() -> None:
    op.create_table(
        "worker",
        sa.Column("worker_id", sa.Text(), nullable=False, comment="as in worker_ledger"),
        sa.Column("host", sa.Text(), comment="NULL, as all up to last_seen_at, if it died before it was registered"),
        sa.Column("boot_id", sa.Text(), comment="changes when the host is restarted; '' where the host has none"),
        sa.Column("pid", sa.Integer(), comment="its process id on the host"),
        sa.Column("version", sa.Text(), comment="a digest of the gateway's code"),
        sa.Column("journal_dir", sa.Text(), comment="the directory on the host that has its journal"),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("last_seen_at", sa.DateTime(timezone=True)),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("closed_how", sa.Text(), comment="see app/db/workers.py"),
        sa.PrimaryKeyConstraint("worker_id", name="pk_worker"),
        sa.CheckConstraint(f"closed_how IN ({CLOSINGS})", name="ck_worker_closed_how"),
        sa.CheckConstraint("(closed_at IS NULL) = (closed_how IS NULL)", name="ck_worker_closed"),
        # Each worker's row changes every ten seconds: room beside it keeps those changes out of the index.
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    op.drop_table("worker")
