"""Allows a worker to be closed as reconciled, by `flask db reconcile-ledger` after a restore.

The code before this migration closes no worker so, and counts such a worker as closed.
"""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

CLOSINGS = "'drained', 'left_rows', 'adopted', 'written_off'"


def upgrade() -> None:
    _replace(f"{CLOSINGS}, 'reconciled'")


def downgrade() -> None:
    op.execute("UPDATE worker SET closed_how = 'adopted' WHERE closed_how = 'reconciled'")
    _replace(CLOSINGS)


def _replace(closings: str) -> None:
    # The table has a row for each worker of a week, so checking them all takes no time.
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.execute("ALTER TABLE worker DROP CONSTRAINT ck_worker_closed_how")
    op.execute(f"ALTER TABLE worker ADD CONSTRAINT ck_worker_closed_how CHECK (closed_how IN ({closings}))")
