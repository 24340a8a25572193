"""Creates the five tables that are derived from activity, four of them partitioned by level."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Rows are updated many times while their minute, hour or day lasts. Free space in each page lets PostgreSQL keep
# the new version beside the old one and prune it at once (HOT), without touching the index. A minute's rows are
# updated by few batches, a day's by all of them.
FILLFACTORS = {"minute": 90, "hour": 70, "day": 50}


def upgrade() -> None:
    _create_by_level("usage_rollup", [_text("gateway"), _text("outcome"), _text("error_type")], _sums())
    _create_by_level("model_rollup", [_text("gateway"), _text("model")], _sums())
    _create_by_level("key_seen", [_text("gateway"), _text("key_id")], [])
    _create_by_level("latency_rollup", [_text("gateway"), _text("metric")], _histogram())
    op.create_table(
        "key_usage",
        _text("key_id"),
        sa.Column("day", sa.Date(), nullable=False),
        _text("gateway"),
        _text("model"),
        *_sums(),
        sa.PrimaryKeyConstraint("key_id", "day", "gateway", "model", name="pk_key_usage"),
        postgresql_with={"fillfactor": FILLFACTORS["day"]},
    )


def downgrade() -> None:
    for name in ["key_usage", "latency_rollup", "key_seen", "model_rollup", "usage_rollup"]:
        op.drop_table(name)


def _create_by_level(name: str, dimensions: list[sa.Column], measures: list[sa.Column]) -> None:
    columns = [_text("level"), sa.Column("start", sa.DateTime(timezone=True), nullable=False), *dimensions]
    op.create_table(
        name,
        *columns,
        *measures,
        sa.PrimaryKeyConstraint(*[column.name for column in columns], name=f"pk_{name}"),
        postgresql_partition_by="LIST (level)",
    )
    for level, fillfactor in FILLFACTORS.items():
        op.execute(
            f"CREATE TABLE {name}_{level} PARTITION OF {name} FOR VALUES IN ('{level}') "
            f"WITH (fillfactor = {fillfactor})"
        )


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), nullable=False)


def _count(name: str) -> sa.Column:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def _histogram() -> list[sa.Column]:
    buckets, counts = sa.ARRAY(sa.SmallInteger()), sa.ARRAY(sa.BigInteger())
    return [
        sa.Column("buckets", buckets, nullable=False, comment="ascending; see app/db/histogram.py"),
        sa.Column("counts", counts, nullable=False, comment="of the buckets, in their order"),
    ]


def _sums() -> list[sa.Column]:
    return [
        _count("requests"),
        _count("ok_requests"),
        _count("prompt_tokens"),
        _count("completion_tokens"),
        _count("cached_tokens"),
        _count("reasoning_tokens"),
        sa.Column("cost_exact", sa.Numeric(), nullable=False, comment="USD"),
        sa.Column("cost_estimated", sa.Numeric(), nullable=False, comment="USD"),
        _count("unpriced_requests"),
        sa.Column("speed_tokens", sa.BigInteger(), nullable=False, comment="completion tokens of rows with a speed"),
        sa.Column("speed_ms", sa.Double(), nullable=False, comment="their generation time"),
    ]
