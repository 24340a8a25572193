"""Records with an unknown cost: finds them, and writes a cost that was computed later.

The sums over records must follow. They are corrected like any addition: by deltas in the transaction that changes the
records, which the fold adds up like those of new records. So every reader sees sums that agree with the records at
every instant. The counts of requests do not change, so the integrity report stays the same; the charges of budgets do
not change either, because a budget is charged by the price known at the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from sqlalchemy import Connection, literal, select, text, tuple_

from app.db.sums import Sums
from app.db.tables import activity


class UnpricedRow(NamedTuple):
    """A record with tokens but without a cost."""

    request_id: UUID
    started_at: datetime
    gateway: str
    model_requested: str | None
    model_served: str
    prompt_tokens: int
    cached_tokens: int | None
    completion_tokens: int


class NewCost(msgspec.Struct, frozen=True, kw_only=True):
    """A cost that was computed later. It is an estimate, because the record lacks the request's service tier.

    Attributes:
        request_id, started_at: the key of the record.
        cost_usd: a decimal string, in USD.
        price_source, price_date: as on a record whose price was known in time.
        reason: why this price was used, for people.
    """

    request_id: UUID
    started_at: datetime
    cost_usd: str
    price_source: str
    price_date: str | None
    reason: str


def select_unpriced(
    connection: Connection,
    start: datetime,
    end: datetime,
    after: tuple[datetime, UUID] | None,
    limit: int,
    gateway: str | None = None,
) -> list[UnpricedRow]:
    """Returns up to `limit` records that started in [start, end) and have tokens but no cost, the oldest first.

    Args:
        connection: the database.
        start, end: with a timezone.
        after: `started_at` and `request_id` of the last record of the previous call; None for the first.
        limit: the most records to return.
        gateway: the provider that served them; None for all.
    """
    rows = activity.c
    columns = (
        rows.request_id, rows.started_at, rows.gateway, rows.model_requested, rows.model_served, rows.prompt_tokens,
        rows.cached_tokens, rows.completion_tokens,
    )  # fmt: skip
    conditions = [
        rows.started_at >= (start if after is None else max(start, after[0])),
        rows.started_at < end,
        rows.cost_kind == "unknown",
        *[column.is_not(None) for column in (rows.gateway, rows.model_served)],
        *[column.is_not(None) for column in (rows.prompt_tokens, rows.completion_tokens)],
    ]
    if gateway is not None:
        conditions.append(rows.gateway == gateway)
    if after is not None:
        conditions.append(tuple_(rows.started_at, rows.request_id) > tuple_(*map(literal, after)))
    query = select(*columns).where(*conditions).order_by(rows.started_at, rows.request_id).limit(limit)
    return [UnpricedRow(*row) for row in connection.execute(query)]


def update_costs(connection: Connection, costs: Sequence[NewCost]) -> int:
    """Writes costs to records that still have none, and corrects the sums; returns the number of updated records.

    Args:
        connection: a connection whose transaction includes both.
        costs: the costs of records with different ids.
    """
    if not costs:
        return 0
    times = [cost.started_at for cost in costs]
    parameters = {"costs": msgspec.json.encode(costs).decode(), "first": min(times), "last": max(times)}
    return int(connection.execute(_UPDATE, parameters).scalar_one())


# The changes that a repriced record makes to the sums of its key, which already include all its other values.
_ADDED: dict[str, str] = {
    "cost_estimated": "sum(cost_usd)",
    # As in migration 0007: a rejected request has no price that could be missing.
    "unpriced_requests": "-count(*) FILTER (WHERE outcome <> 'rejected')",
}

# The dimensions are those of the trigger in migration 0007, so that a correction reaches the sums that it corrects.
_UPDATE = text(f"""
    WITH new AS (
        SELECT * FROM jsonb_to_recordset(CAST(:costs AS jsonb)) AS r (request_id uuid, started_at timestamptz,
            cost_usd numeric, price_source text, price_date date, reason text)),
    changed AS (
        UPDATE activity SET cost_usd = new.cost_usd, cost_kind = 'estimated', price_source = new.price_source,
            price_date = new.price_date,
            repriced = jsonb_build_object('at', now(), 'reason', new.reason, 'cost_usd', activity.cost_usd,
                'cost_kind', activity.cost_kind, 'price_source', activity.price_source)
        FROM new
        WHERE activity.started_at BETWEEN :first AND :last AND activity.cost_kind = 'unknown'
            AND activity.started_at = new.started_at AND activity.request_id = new.request_id
        RETURNING activity.*),
    corrected AS (
        INSERT INTO rollup_delta (minute, gateway, endpoint, model, key_id, outcome, error_type, in_old_family,
            {", ".join(Sums._fields)}, ttft_buckets, duration_buckets)
        SELECT date_trunc('minute', started_at, 'UTC'), left(coalesce(gateway, ''), 100), left(endpoint, 100),
            left(coalesce(model_served, ''), 300), left(key_id, 100), outcome, left(coalesce(error_type, ''), 100),
            false, {", ".join(_ADDED.get(name, "0") for name in Sums._fields)}, '{{}}', '{{}}'
        FROM changed GROUP BY 1, 2, 3, 4, 5, 6, 7)
    SELECT count(*) FROM changed""")


def count_unpriced_without_tokens(connection: Connection, start: datetime, end: datetime, gateway: str | None) -> int:
    """Returns the number of records in [start, end) with neither a cost nor the tokens to compute one."""
    query = text("""
        SELECT count(*) FROM activity
        WHERE started_at >= :start AND started_at < :end AND cost_kind = 'unknown' AND outcome <> 'rejected'
            AND (prompt_tokens IS NULL OR completion_tokens IS NULL OR model_served IS NULL OR gateway IS NULL)
            AND (CAST(:gateway AS text) IS NULL OR gateway = :gateway)""")
    parameters: dict[str, Any] = {"start": start, "end": end, "gateway": gateway}
    return int(connection.execute(query, parameters).scalar_one())
