"""Links the retries of SDKs to what they repeat, and keeps what lists of models said.

A worker links retries in the background (app/db/retries.py), because the attempt that a retry repeats may arrive after
it, from another worker. Rows of code before this migration have no digest and are linked to nothing.

A cost that was computed later than its request changes a row; `repriced` keeps what the row had, and the sums are
corrected in the same transaction (app/db/repricing.py).
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COLUMNS = {
    "body_digest": (sa.Text(), "of the body of an SDK's request, keyed by the caller's gateway key"),
    "client_agent": (sa.Text(), "User-Agent of the retry, on the retry and on the attempt that it repeats"),
    "retry_of": (sa.Uuid(), "request_id of the attempt that this one repeats"),
    "retried_by": (sa.Uuid(), "request_id of the retry that repeats this attempt"),
    "repriced": (JSONB(), "what the cost was before it was computed later, when and why"),
}

INDEXES = {
    "ix_activity_body_digest_started_at": (["body_digest", "started_at"], "body_digest IS NOT NULL"),
    "ix_activity_retried_started_at": (["started_at"], "retried_by IS NOT NULL"),
}

PARTITIONS = "SELECT CAST(inhrelid AS regclass) FROM pg_inherits WHERE inhparent = to_regclass('activity')"


def upgrade() -> None:
    op.create_table(
        "unlinked_retry",
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("request_id", name="pk_unlinked_retry"),
    )
    _create_catalog_tables()
    # A reader that keeps the table for a while, such as a dump, must not hold up all writers behind this.
    op.execute("SET LOCAL lock_timeout = '60s'")
    for name, (kind, comment) in COLUMNS.items():
        op.add_column("activity", sa.Column(name, kind, comment=comment))
    partitions = op.get_bind().execute(sa.text(PARTITIONS)).scalars().all()
    for name, (columns, condition) in INDEXES.items():
        # A statement for each day stays below the statement timeout. The last one only attaches what these have built.
        for partition in partitions:
            op.execute(f"CREATE INDEX ON {partition} ({', '.join(columns)}) WHERE {condition}")
        op.create_index(name, "activity", columns, postgresql_where=sa.text(condition))


def _create_catalog_tables() -> None:
    op.create_table(
        "catalog_list",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("first_at", sa.DateTime(timezone=True), nullable=False, comment="of the first list that was kept"),
        sa.Column("fetched_at", sa.DateTime(timezone=True), nullable=False, comment="of the list that is kept"),
        sa.Column("version", sa.Text(), nullable=False, comment="a digest of its entries"),
        sa.PrimaryKeyConstraint("provider", name="pk_catalog_list"),
    )
    op.create_table(
        "catalog_model",
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False, comment="since when it is listed"),
        sa.Column("facts", JSONB(), nullable=False, comment="see app/db/catalog_tables.py"),
        sa.PrimaryKeyConstraint("provider", "model", name="pk_catalog_model"),
    )
    op.create_table(
        "catalog_change",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("provider", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("before", JSONB(), comment="the facts before; NULL if the model was not listed"),
        sa.Column("after", JSONB(), comment="the facts since; NULL if it is not listed any more"),
        sa.PrimaryKeyConstraint("id", name="pk_catalog_change"),
        sa.CheckConstraint(
            "kind IN ('added', 'removed', 'price', 'context', 'deprecation')", name="ck_catalog_change_kind"
        ),
    )
    op.create_index("ix_catalog_change_at", "catalog_change", ["at"])
    op.create_index("ix_catalog_change_provider_model", "catalog_change", ["provider", "model"])


def downgrade() -> None:
    for name in reversed(INDEXES):
        op.drop_index(name, "activity")
    for name in reversed(COLUMNS):
        op.drop_column("activity", name)
    for name in ("catalog_change", "catalog_model", "catalog_list", "unlinked_retry"):
        op.drop_table(name)
