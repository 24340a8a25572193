"""Creates the sessions of the dashboard, and the one-time links that begin one.

Both keep digests alone, so who reads the database cannot sign in. Code before this migration knows neither table.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLES = {
    "dashboard_session": ("pk_dashboard_session", "SHA-256 of the token in the browser's cookie"),
    "dashboard_link": ("pk_dashboard_link", "SHA-256 of the token in the link"),
}


def upgrade() -> None:
    for name, (key, comment) in TABLES.items():
        columns = [
            sa.Column("digest", sa.LargeBinary(), nullable=False, comment=comment),
            sa.Column("key_digest", sa.LargeBinary(), nullable=False, comment="SHA-256 of the gateway key"),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        ]
        if name == "dashboard_session":
            columns.append(
                sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now())
            )
        op.create_table(name, *columns, sa.PrimaryKeyConstraint("digest", name=key))


def downgrade() -> None:
    for name in TABLES:
        op.drop_table(name)
