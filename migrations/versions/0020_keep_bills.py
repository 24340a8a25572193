"""Creates the tables of what providers billed, and the column of what a provider said that a request cost.

Workers of the code before this migration leave the column NULL and know none of the tables.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bill_day",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="of UTC"),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("account", sa.Text(), comment="whose bill it is, as the provider names it"),
        sa.Column("has_costs", sa.Boolean(), nullable=False, comment="whether the provider said what the day cost"),
        sa.Column("tag", sa.Text(), comment="the name by which this gateway's requests are told apart"),
        sa.Column("tag_prompt_tokens", sa.BigInteger(), comment="those of them, of all models; NULL without a tag"),
        sa.Column("tag_completion_tokens", sa.BigInteger()),
        sa.PrimaryKeyConstraint("gateway", "day", name="pk_bill_day"),
    )
    op.create_table(
        "bill_line",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False, comment="as the provider names it"),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(), comment="NULL: the provider has not said"),
        sa.Column("requests", sa.BigInteger(), comment="NULL: the provider bills no requests"),
        sa.Column("differing_requests", sa.BigInteger(), comment="those of them whose recorded cost is another"),
        sa.Column("prompt_price", sa.Numeric(), comment="the catalog's, in USD per token, when it was first fetched"),
        sa.Column("cached_price", sa.Numeric()),
        sa.Column("completion_price", sa.Numeric()),
        sa.PrimaryKeyConstraint("gateway", "day", "model", name="pk_bill_line"),
    )
    op.create_table(
        "bill_run",
        sa.Column("gateway", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False, comment="the last time that it was asked"),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("error", sa.Text(), comment="why it failed; NULL if it did not"),
        sa.PrimaryKeyConstraint("gateway", name="pk_bill_run"),
    )
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.add_column(
        "activity",
        sa.Column("stated_cost_usd", sa.Numeric(30, 15), comment="what the provider's answer said that it cost"),
    )


def downgrade() -> None:
    op.drop_column("activity", "stated_cost_usd")
    for name in ("bill_run", "bill_line", "bill_day"):
        op.drop_table(name)
