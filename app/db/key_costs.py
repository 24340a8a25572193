"""What the requests of one key have cost, in all and in the UTC day, week and month of now."""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

from app.db.rollup_tables import KEY_PREFIX

_SELECT_COSTS = text("""
    SELECT coalesce(sum(cost), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('day', now(), 'UTC')), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('week', now(), 'UTC')), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('month', now(), 'UTC')), 0)
    FROM (
        SELECT start, cost_exact + cost_estimated AS cost FROM model_usage WHERE level = 'day' AND subject = :subject
        UNION ALL SELECT minute, cost_exact + cost_estimated FROM rollup_delta WHERE key_id = :key_id
    ) AS sums""")


class KeyCosts(NamedTuple):
    """Costs in USD, exact and estimated ones together."""

    total: Decimal
    day: Decimal
    week: Decimal
    month: Decimal


def select_key_costs(connection: Connection, key_id: str) -> KeyCosts:
    """Returns what the requests of a key have cost."""
    values = {"subject": KEY_PREFIX + key_id, "key_id": key_id}
    return KeyCosts(*connection.execute(_SELECT_COSTS, values).one())
