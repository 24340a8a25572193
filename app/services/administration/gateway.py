"""The limits of the whole gateway, which bind every request, even those of operators."""

from __future__ import annotations

from typing import Any

from app.db import Connection, read_connection, write_connection
from app.db.limit_tables import GATEWAY_ID
from app.db.subjects import select_subject, select_subjects
from app.services.administration.changes import LimitChanges
from app.services.administration.limits import apply_limits
from app.services.administration.views import LimitsView, select_limits


def select_gateway_limits() -> LimitsView:
    """Returns the limits of the whole gateway.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return LimitsView(**_select_gateway(connection))


def change_gateway_limits(actor: str, changes: LimitChanges, *, keep_budgets: bool = False) -> LimitsView:
    """Changes the limits of the whole gateway, which also bind operators' keys, and returns them.

    Raises:
        BadRequest: a limit makes no sense.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = select_subject(connection, id=GATEWAY_ID, lock=True)
        assert row is not None
        apply_limits(connection, actor, row, changes, keep_budgets=keep_budgets)
        return LimitsView(**_select_gateway(connection))


def _select_gateway(connection: Connection) -> dict[str, Any]:
    return select_limits(connection, select_subjects(connection, ids=[GATEWAY_ID]))[GATEWAY_ID]
