"""Creates the tables of limits and of the audit, and gives keys a holder, an expiry and a successor.

Keys that exist have no holder and so no limits but the gateway's. Code before this migration ignores limits, so set
them when no such worker runs any more.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

AMOUNT = sa.Numeric(30, 12)
TIME = sa.DateTime(timezone=True)
# Rows that change at every draw: room beside them keeps these changes out of the indexes.
BUSY = {"fillfactor": 50}


def upgrade() -> None:
    _create_subjects()
    _create_budgets()
    _create_leases()
    _create_rates()
    op.create_table(
        "audit_event",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column(
            "actor", sa.Text(), nullable=False, comment="the id of an operator's key, or cli:<user of the machine>"
        ),
        sa.Column("action", sa.Text(), nullable=False, comment="as in key.create"),
        sa.Column("object", sa.Text(), nullable=False, comment="what was changed, as in key:<id>"),
        sa.Column("before", postgresql.JSONB()),
        sa.Column("after", postgresql.JSONB()),
        sa.PrimaryKeyConstraint("id", name="pk_audit_event"),
    )
    op.create_index("ix_audit_event_at", "audit_event", ["at"])
    op.create_index("ix_audit_event_object_at", "audit_event", ["object", "at"])
    op.add_column("api_key", sa.Column("holder_id", sa.Text(), comment="a subject; NULL: no limits of its own"))
    op.add_column("api_key", sa.Column("expires_at", TIME))
    op.add_column("api_key", sa.Column("replaced_by", sa.Text(), comment="the id of the key that it was rotated to"))
    op.add_column("api_key", sa.Column("is_operator", sa.Boolean(), nullable=False, server_default="false"))
    op.create_foreign_key("fk_api_key_holder_id", "api_key", "subject", ["holder_id"], ["id"])
    op.create_index("ix_api_key_holder_id", "api_key", ["holder_id"])


def _create_subjects() -> None:
    op.create_table(
        "subject",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("group_id", sa.Text(), comment="of a holder"),
        sa.Column(
            "models",
            postgresql.ARRAY(sa.Text()),
            nullable=False,
            server_default="{}",
            comment="patterns of provider/id; empty is all",
        ),
        sa.Column("requests_per_minute", sa.BigInteger()),
        sa.Column("tokens_per_minute", sa.BigInteger()),
        sa.Column("concurrent", sa.Integer(), comment="requests at once"),
        sa.Column("max_output_tokens", sa.BigInteger(), comment="the most that a request may ask for"),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_subject"),
        sa.UniqueConstraint("kind", "name", name="uq_subject_kind"),
        sa.ForeignKeyConstraint(["group_id"], ["subject.id"], name="fk_subject_group_id"),
        sa.CheckConstraint("kind IN ('holder', 'group', 'gateway')", name="ck_subject_kind"),
        sa.CheckConstraint("kind = 'holder' OR group_id IS NULL", name="ck_subject_group_id"),
        *[
            sa.CheckConstraint(f"{name} > 0", name=f"ck_subject_{name}")
            for name in ("requests_per_minute", "tokens_per_minute", "concurrent", "max_output_tokens")
        ],
    )
    op.execute("INSERT INTO subject (id, kind, name) VALUES ('gateway', 'gateway', 'gateway')")


def _create_budgets() -> None:
    op.create_table(
        "budget",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("amount", AMOUNT, nullable=False),
        sa.Column("time_window", sa.Text(), nullable=False, comment="see app/services/limits/periods.py"),
        sa.Column("timezone", sa.Text(), nullable=False, server_default="UTC"),
        sa.Column(
            "first_day",
            sa.SmallInteger(),
            nullable=False,
            server_default="1",
            comment="of a week (1 is Monday) or a month",
        ),
        sa.Column("warn_percents", postgresql.ARRAY(sa.SmallInteger()), nullable=False, server_default="{}"),
        sa.Column("created_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint("id", name="pk_budget"),
        sa.ForeignKeyConstraint(["subject_id"], ["subject.id"], name="fk_budget_subject_id"),
        sa.CheckConstraint("unit IN ('usd', 'tokens', 'requests')", name="ck_budget_unit"),
        sa.CheckConstraint("amount >= 0", name="ck_budget_amount"),
        sa.CheckConstraint("first_day BETWEEN 1 AND 28", name="ck_budget_first_day"),
        postgresql_with=BUSY,
    )
    op.create_index(
        "uq_budget_subject_id_unit_time_window",
        "budget",
        ["subject_id", "unit", "time_window"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
    )


def _create_leases() -> None:
    op.create_table(
        "budget_period",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("budget_id", sa.BigInteger(), nullable=False),
        sa.Column("start_at", TIME, nullable=False),
        sa.Column("end_at", TIME, comment="NULL if it never ends"),
        sa.Column(
            "extra", AMOUNT, nullable=False, server_default="0", comment="raises the amount in this period alone"
        ),
        sa.Column("granted", AMOUNT, nullable=False, server_default="0", comment="the sum of drawn over all workers"),
        sa.Column("recalled_at", TIME, comment="when a draw last found too little"),
        sa.Column("warned_percent", sa.SmallInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("id", name="pk_budget_period"),
        sa.UniqueConstraint("budget_id", "start_at", name="uq_budget_period_budget_id"),
        sa.ForeignKeyConstraint(["budget_id"], ["budget.id"], name="fk_budget_period_budget_id"),
        postgresql_with=BUSY,
    )
    op.create_table(
        "budget_lease",
        sa.Column("period_id", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False, comment="as in worker"),
        sa.Column("version", sa.BigInteger(), nullable=False, comment="of the newest draw, which counts up"),
        sa.Column("drawn", AMOUNT, nullable=False),
        sa.Column("closed", sa.Boolean(), nullable=False, server_default="false", comment="the worker has ended"),
        sa.PrimaryKeyConstraint("period_id", "worker_id", name="pk_budget_lease"),
        sa.ForeignKeyConstraint(["period_id"], ["budget_period.id"], name="fk_budget_lease_period_id"),
        postgresql_with=BUSY,
    )
    op.create_table(
        "budget_charge",
        sa.Column("period_id", sa.BigInteger(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("exact", AMOUNT, nullable=False, server_default="0"),
        sa.Column("estimated", AMOUNT, nullable=False, server_default="0"),
        sa.Column("ceiling", AMOUNT, nullable=False, server_default="0", comment="of requests whose use is not known"),
        sa.Column("requests", sa.BigInteger(), nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("period_id", "worker_id", name="pk_budget_charge"),
        postgresql_with=BUSY,
    )


def _create_rates() -> None:
    op.create_table(
        "rate_pot",
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column(
            "slots", postgresql.ARRAY(sa.BigInteger()), nullable=False, comment="a ring of RATE_SLOTS half seconds"
        ),
        sa.Column("head", sa.BigInteger(), nullable=False, comment="the newest half second, counted from 1970"),
        sa.PrimaryKeyConstraint("subject_id", "kind", name="pk_rate_pot"),
        sa.CheckConstraint("kind IN ('requests', 'tokens')", name="ck_rate_pot_kind"),
        prefixes=["UNLOGGED"],
        postgresql_with=BUSY,
    )
    op.create_table(
        "slot_lease",
        sa.Column("subject_id", sa.Text(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("seen_at", TIME, nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("subject_id", "worker_id", name="pk_slot_lease"),
        prefixes=["UNLOGGED"],
        postgresql_with=BUSY,
    )


def downgrade() -> None:
    op.drop_index("ix_api_key_holder_id", "api_key")
    for name in ("is_operator", "replaced_by", "expires_at", "holder_id"):
        op.drop_column("api_key", name)
    for name in (
        "audit_event",
        "slot_lease",
        "rate_pot",
        "budget_charge",
        "budget_lease",
        "budget_period",
        "budget",
        "subject",
    ):
        op.drop_table(name)
