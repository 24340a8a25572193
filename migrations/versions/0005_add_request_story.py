"""Adds what finds and explains one request: the client's id, the error's text, and which values were repaired."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# Name and comment. All may be absent, so workers that do not know them go on writing.
COLUMNS = {
    "client_request_id": "x-request-id of the client",
    "error_message": "redacted, without the input that providers quote",
    "error_param": None,
    "repaired": "columns whose values PostgreSQL would have refused; they were changed or removed",
}


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column("activity", sa.Column(name, sa.Text(), comment=comment))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("activity", name)
