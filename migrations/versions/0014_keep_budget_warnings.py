"""Creates the table of messages about budgets that LIMITS_WEBHOOK has not accepted yet.

Code before this migration keeps such messages in the memory of the worker that noticed them, and ignores the table.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "budget_warning",
        sa.Column("id", sa.Text(), nullable=False, comment="of the message"),
        sa.Column("body", sa.Text(), nullable=False, comment="the message, in JSON"),
        sa.Column("made_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("due_at", TIME, nullable=False, server_default=sa.func.now(), comment="of the next attempt"),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0", comment="that were begun"),
        sa.Column("worker_id", sa.Text(), comment="who sends it now; NULL while nobody does"),
        sa.PrimaryKeyConstraint("id", name="pk_budget_warning"),
    )
    op.create_index("ix_budget_warning_due_at", "budget_warning", ["due_at"])


def downgrade() -> None:
    op.drop_table("budget_warning")
