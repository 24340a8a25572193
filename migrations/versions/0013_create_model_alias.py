"""Creates the table of aliases: names that the operator gives to some models.

Code before this migration neither reads nor writes it, so such a worker knows no alias.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_alias",
        sa.Column("name", sa.Text(), nullable=False, comment="in lower case"),
        sa.Column("targets", sa.JSON(), nullable=False, comment="[[name, weight or null], …], in order"),
        sa.Column("sort", sa.Text(), comment="by what to order the targets; NULL keeps their order"),
        sa.Column("overrides", sa.JSON(), nullable=False, comment="body field → value"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("name", name="pk_model_alias"),
        sa.CheckConstraint("sort IN ('price', 'latency', 'throughput')", name="ck_model_alias_sort"),
    )


def downgrade() -> None:
    op.drop_table("model_alias")
