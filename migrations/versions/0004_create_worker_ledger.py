"""Creates the ledger of what each worker's requests became."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COUNTS = {
    "version": "counts up; the highest line is the newest",
    "started": "requests begun",
    "in_flight": "not ended yet",
    "unshipped": "ended, and the row is on its way here",
    "unrecorded": "ended without a row: the disk was full or broken",
    "rejected": "rows that PostgreSQL refused; see rejected.jsonl",
    "unsent": "begun by a worker that died before it asked a provider",
    "direct": "rows that came from memory, past the journal",
    "segment": "of the journal, and",
    "byte_offset": "in it, before which all rows are here",
}


def upgrade() -> None:
    op.create_table(
        "worker_ledger",
        sa.Column("worker_id", sa.Text(), nullable=False, comment="the name of its directory in the journal"),
        *[sa.Column(name, sa.BigInteger(), nullable=False, comment=text) for name, text in COUNTS.items()],
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("worker_id", name="pk_worker_ledger"),
        # Each worker's line changes twice a second: room beside it keeps those changes out of the index.
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    op.drop_table("worker_ledger")
