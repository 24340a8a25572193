"""Keeps the answers of requests with an Idempotency-Key, and links records of replays to the first request.

Code before this migration knows neither: it leaves the column NULL, and ignores the header.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '60s'")
    op.create_table(
        "kept_answer",
        sa.Column("id", sa.LargeBinary(), nullable=False, comment="of the Idempotency-Key, keyed by the gateway key"),
        sa.Column("key_id", sa.Text(), nullable=False, comment="api_key.id, or env for the key of the environment"),
        sa.Column("request_id", sa.Uuid(), nullable=False, comment="the request that has, or gets, the answer"),
        sa.Column(
            "body_digest", sa.LargeBinary(), nullable=False, comment="of path and body, keyed by the gateway key"
        ),
        sa.Column("worker_id", sa.Text(), nullable=False, comment="the worker that serves it"),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("bytes", sa.Integer(), nullable=False, server_default="0", comment="the length of sealed"),
        sa.Column(
            "sealed", sa.LargeBinary(), comment="the answer, encrypted by the gateway key; NULL while it is served"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_kept_answer"),
    )
    op.create_index("ix_kept_answer_expires_at", "kept_answer", ["expires_at"])
    op.add_column(
        "activity",
        sa.Column("replay_of", sa.Uuid(), comment="the request whose kept answer this one got; NULL without"),
    )


def downgrade() -> None:
    op.drop_column("activity", "replay_of")
    op.drop_table("kept_answer")
