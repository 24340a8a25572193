"""The last use of keys, from the sums alone: to the minute for three days, then to the hour, then to the day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Connection, text

from app.db.rollup_tables import KEY_PREFIX, LEVELS

# Each subquery is one step along a primary key; greatest() ignores NULLs.
_LEVELS = ", ".join(
    f"(SELECT max(start) FROM outcome_usage WHERE level = '{level}' AND subject = :prefix || wanted.id)"
    for level in LEVELS
)
_SELECT = text(f"""
    SELECT wanted.id, greatest({_LEVELS}, (SELECT max(minute) FROM rollup_delta WHERE key_id = wanted.id))
    FROM unnest(CAST(:ids AS text[])) AS wanted (id)""")


def select_last_used(connection: Connection, ids: Sequence[str]) -> dict[str, datetime | None]:
    """Returns key id → the beginning of the minute, hour or UTC day of its last request; None without any."""
    if not ids:
        return {}
    rows = connection.execute(_SELECT, {"ids": list(ids), "prefix": KEY_PREFIX})
    return {row[0]: row[1] for row in rows}
