"""Creates activity, partitioned by day; the gateway makes the partitions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OUTCOMES = (
    "'ok', 'client_gone', 'upstream_error', 'upstream_cut', 'upstream_timeout', 'rejected', 'gateway_shutdown', 'lost'"
)
CHECKS = {
    "outcome": f"outcome IN ({OUTCOMES})",
    "usage_source": "usage_source IN ('provider', 'counted', 'none')",
    "cost_kind": "cost_kind IN ('exact', 'estimated', 'unknown')",
    "prompt_tokens": "prompt_tokens BETWEEN 0 AND 1000000000000",
    "completion_tokens": "completion_tokens BETWEEN 0 AND 1000000000000",
    "cached_tokens": "cached_tokens BETWEEN 0 AND 1000000000000",
    "reasoning_tokens": "reasoning_tokens BETWEEN 0 AND 1000000000000",
    "duration_ms": "duration_ms BETWEEN 0 AND 100000000000",
    "ttft_ms": "ttft_ms BETWEEN 0 AND 100000000000",
    "cost_usd": "cost_usd >= 0",
    "cost_known": "(cost_kind = 'unknown') = (cost_usd IS NULL)",
}


def upgrade() -> None:
    checks = [sa.CheckConstraint(rule, name=f"ck_activity_{name}") for name, rule in CHECKS.items()]
    op.create_table(
        "activity",
        *_columns(),
        sa.PrimaryKeyConstraint("started_at", "request_id", name="pk_activity"),
        *checks,
        postgresql_partition_by="RANGE (started_at)",
    )
    op.create_index("ix_activity_key_id_started_at", "activity", ["key_id", "started_at"])
    model = sa.text("coalesce(model_served, model_requested)")
    op.create_index("ix_activity_model_started_at", "activity", [model, "started_at"])
    op.create_index("ix_activity_gateway_started_at", "activity", ["gateway", "started_at"])
    op.create_index(
        "ix_activity_outcome_started_at",
        "activity",
        ["outcome", "started_at"],
        postgresql_where=sa.text("outcome <> 'ok'"),
    )


def downgrade() -> None:
    op.drop_table("activity")


def _columns() -> list[sa.Column]:
    return [
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False, comment="api_key.id, or env for the key of the environment"),
        sa.Column("gateway", sa.Text()),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("model_requested", sa.Text()),
        sa.Column("model_served", sa.Text()),
        sa.Column("stream", sa.Boolean(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger()),
        sa.Column("completion_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("usage_source", sa.Text(), nullable=False),
        sa.Column("cost_usd", sa.Numeric(30, 15)),
        sa.Column("cost_kind", sa.Text(), nullable=False),
        sa.Column("price_source", sa.Text()),
        sa.Column("price_date", sa.Date()),
        sa.Column("duration_ms", sa.Double()),
        sa.Column("ttft_ms", sa.Double()),
        sa.Column("tokens_per_second", sa.Double()),
        sa.Column("finish_reason", sa.Text()),
        sa.Column("error_type", sa.Text()),
        sa.Column("error_code", sa.Text()),
        sa.Column("upstream_request_id", sa.Text()),
        sa.Column("upstream_status", sa.Integer()),
        sa.Column("attempts", postgresql.JSONB(none_as_null=True)),
        sa.Column("events", sa.Integer()),
        sa.Column("bytes_out", sa.BigInteger()),
        sa.Column("longest_gap_ms", sa.Double()),
        sa.Column("client_retry", sa.Integer()),
    ]
