"""The cost of a key's requests, or of all keys of a holder: in total, and in the current UTC day, week and month."""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import Connection, text

from app.db.rollup_tables import KEY_PREFIX

_SUMS = """coalesce(sum(cost), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('day', now(), 'UTC')), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('week', now(), 'UTC')), 0),
        coalesce(sum(cost) FILTER (WHERE start >= date_trunc('month', now(), 'UTC')), 0)"""

_SELECT_COSTS = text(f"""
    SELECT {_SUMS}
    FROM (
        SELECT start, cost_exact + cost_estimated AS cost FROM model_usage WHERE level = 'day' AND subject = :subject
        UNION ALL SELECT minute, cost_exact + cost_estimated FROM rollup_delta WHERE key_id = :key_id
    ) AS sums""")

# Subjects are compared byte by byte (app/db/rollup_tables.py).
_SELECT_HOLDER_COSTS = text(f"""
    WITH owned AS (SELECT id AS key_id, holder_id FROM api_key WHERE holder_id = ANY (:holders))
    SELECT holder_id, {_SUMS}
    FROM (
        SELECT holder_id, start, cost_exact + cost_estimated AS cost
        FROM owned JOIN model_usage ON level = 'day' AND subject = CAST(:prefix || key_id AS text) COLLATE "C"
        UNION ALL SELECT holder_id, minute, cost_exact + cost_estimated FROM rollup_delta JOIN owned USING (key_id)
    ) AS sums
    GROUP BY holder_id""")


class KeyCosts(NamedTuple):
    """Costs in USD, exact and estimated ones together."""

    total: Decimal
    day: Decimal
    week: Decimal
    month: Decimal


def select_key_costs(connection: Connection, key_id: str) -> KeyCosts:
    """Returns the cost of a key's requests."""
    values = {"subject": KEY_PREFIX + key_id, "key_id": key_id}
    return KeyCosts(*connection.execute(_SELECT_COSTS, values).one())


def select_holder_costs(connection: Connection, holder_ids: Collection[str]) -> dict[str, KeyCosts]:
    """Returns holder id → the cost of all its keys' requests, including revoked keys; 0 for holders without any."""
    rows = connection.execute(_SELECT_HOLDER_COSTS, {"holders": list(holder_ids), "prefix": KEY_PREFIX})
    nothing = KeyCosts(*[Decimal(0)] * len(KeyCosts._fields))
    return dict.fromkeys(holder_ids, nothing) | {row[0]: KeyCosts(*row[1:]) for row in rows}
