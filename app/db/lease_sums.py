"""Operators' view of leases and corrections to them: who has drawn how much, and whether the sums agree.

A correction is a charge and a closed lease of a nonexistent worker, so that all sums agree and no live worker must be
told. EARLIER_REQUESTS has the cost of a period from before its budget was made, FORGIVEN the amounts given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection, text

from app.db.leases import compute_period_id, upsert_period
from app.db.request_ids import ID_TOLERANCE, read_id_time
from app.db.tables import OUTCOMES
from app.db.workers import MISSING_AFTER_S

EARLIER_REQUESTS = "earlier requests"
FORGIVEN = "forgiven"

_SELECT_LEASES = text("""
    SELECT worker_id, coalesce(worker.closed_how, CASE WHEN worker.worker_id IS NULL THEN 'none' ELSE 'live' END)
            AS worker_state, worker.host, worker.last_seen_at, budget.id AS budget_id,
        subject.kind || ' ' || subject.name AS subject, budget.unit, budget.time_window, budget_period.start_at,
        lease.drawn, coalesce(exact + estimated + ceiling, 0) AS charged, lease.closed, lease.kept
    FROM budget_lease AS lease
    JOIN budget_period ON budget_period.id = lease.period_id
    JOIN budget ON budget.id = budget_period.budget_id
    JOIN subject ON subject.id = budget.subject_id
    LEFT JOIN budget_charge USING (period_id, worker_id)
    LEFT JOIN worker USING (worker_id)
    WHERE (NOT lease.closed AND lease.drawn <> coalesce(exact + estimated + ceiling, 0)) OR lease.kept
    ORDER BY worker.last_seen_at NULLS FIRST, worker_id, budget.id, start_at LIMIT :limit""")

_SELECT_MISTAKES = text("""
    SELECT 'granted' AS kind, id AS period_id, NULL AS worker_id, granted AS found, coalesce(drawn, 0) AS expected
    FROM budget_period
    LEFT JOIN (SELECT period_id, sum(drawn) AS drawn FROM budget_lease GROUP BY period_id) AS sums ON period_id = id
    WHERE granted <> coalesce(drawn, 0)
    UNION ALL
    SELECT CASE WHEN kept THEN 'kept' ELSE 'closed' END, period_id, worker_id, drawn,
        coalesce(exact + estimated + ceiling, 0)
    FROM budget_lease LEFT JOIN budget_charge USING (period_id, worker_id)
    WHERE closed AND CASE WHEN kept THEN drawn < coalesce(exact + estimated + ceiling, 0)
        ELSE drawn <> coalesce(exact + estimated + ceiling, 0) END
    UNION ALL
    SELECT 'above', period.id, NULL, period.granted, budget.amount + period.extra
    FROM budget_period AS period JOIN budget ON budget.id = budget_id
    WHERE period.granted > budget.amount + period.extra AND time_window NOT LIKE 'rolling%'
    ORDER BY 1, 2, 3""")

_SELECT_IS_LIVE = text(f"""
    SELECT EXISTS (SELECT FROM worker WHERE worker_id = :worker_id AND closed_how IS NULL
        AND last_seen_at > now() - interval '{MISSING_AFTER_S} s')""")

_SELECT_KEYS = text("""
    SELECT id FROM api_key WHERE holder_id = :subject OR holder_id IN (SELECT id FROM subject WHERE group_id = :subject)
""")

# A rejected request was sent to no provider, so it used nothing.
_SUMS = "outcome, prompt_tokens + completion_tokens AS tokens, requests, cost_exact, cost_estimated"
_SELECT_EARLIER = text(f"""
    SELECT coalesce(sum(tokens), 0), coalesce(sum(requests) FILTER (WHERE outcome <> 'rejected'), 0)::bigint,
        coalesce(sum(cost_exact), 0),
        coalesce(sum(cost_estimated), 0)
    FROM (
        SELECT {_SUMS} FROM outcome_usage
        WHERE level = :level AND subject = ANY (:subjects) AND start > :start - CAST(:step AS interval) AND start < :end
        UNION ALL
        SELECT {_SUMS} FROM rollup_delta
        WHERE (:is_all OR 'key' || chr(58) || key_id = ANY (:subjects)) AND minute >= :start AND minute < :end) AS sums
""")

# Requests that ended before they were sent to a provider used nothing either. The sums do not distinguish them, but the
# records do, by an index of requests that did not succeed: an unsent request costs exactly 0, with unknown tokens.
_SELECT_UNSENT = text("""
    SELECT count(*) FROM activity
    WHERE outcome <> 'ok' AND outcome = ANY (:outcomes) AND started_at >= :start AND started_at < :end
        AND cost_kind = 'exact' AND cost_usd = 0 AND prompt_tokens IS NULL AND (:is_all OR key_id = ANY (:keys))""")
_MAYBE_UNSENT = [outcome for outcome in OUTCOMES if outcome not in ("ok", "rejected")]

_LOCK_BUDGETS = text("SELECT FROM budget WHERE id = ANY (:ids) ORDER BY id FOR NO KEY UPDATE")
_ADD_CHARGE = text("""
    INSERT INTO budget_charge AS charge (period_id, worker_id, exact, estimated, ceiling, requests)
    VALUES (:period, :worker, :exact, :estimated, :ceiling, :requests)
    ON CONFLICT (period_id, worker_id) DO UPDATE SET exact = charge.exact + excluded.exact,
        estimated = charge.estimated + excluded.estimated, ceiling = charge.ceiling + excluded.ceiling,
        requests = charge.requests + excluded.requests""")
_ADD_LEASE = text("""
    INSERT INTO budget_lease AS lease (period_id, worker_id, version, drawn, closed)
    VALUES (:period, :worker, 1, :amount, true)
    ON CONFLICT (period_id, worker_id) DO UPDATE SET drawn = lease.drawn + excluded.drawn""")
_ADD_GRANTED = text("UPDATE budget_period SET granted = granted + :amount WHERE id = :period")

_SELECT_CHARGED = text("""
    SELECT started_at, charged_usd, charged_tokens,
        ceil(coalesce(cost_usd, 0) * 1000000000000) * 0.000000000001 AS cost,
        coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0) AS tokens, budget_periods
    FROM activity
    WHERE request_id = :id AND started_at BETWEEN :first AND :last AND budget_periods IS NOT NULL FOR UPDATE""")
_UPDATE_CHARGED = text("""
    UPDATE activity SET charged_usd = :usd, charged_tokens = :tokens
    WHERE request_id = :id AND started_at = :started_at""")
_SELECT_UNITS = text("SELECT id, unit FROM budget WHERE id = ANY (:ids)")


class LeaseRow(NamedTuple):
    """An amount that a worker has drawn of a period and that was not charged yet, or that it may have spent without a
    record (`kept`).

    `worker_state` is live, none (never registered), or how the worker ended; see app/db/workers.py.
    """

    worker_id: str
    worker_state: str
    host: str | None
    last_seen_at: datetime | None
    budget_id: int
    subject: str
    unit: str
    window: str
    start_at: datetime
    drawn: Decimal
    charged: Decimal
    closed: bool
    kept: bool


class Mistake(NamedTuple):
    """A disagreement between sums of a budget.

    `kind` is granted (it is not the sum of the workers' draws), closed or kept (the draws of an ended worker are not
    equal to its charges), or above (more is granted than the budget has; the causes are logged as budget_overrun, or
    the budget was cut).
    """

    kind: str
    period_id: int
    worker_id: str | None
    found: Decimal
    expected: Decimal


class Forgiven(NamedTuple):
    """The part of a charge that is forgiven: the excess over the known use."""

    usd: Decimal
    tokens: int


def select_leases(connection: Connection, limit: int) -> list[LeaseRow]:
    """Returns up to `limit` leases with an amount in use or unaccounted for, longest silent workers first."""
    return [LeaseRow(*row) for row in connection.execute(_SELECT_LEASES, {"limit": limit})]


def select_mistakes(connection: Connection) -> list[Mistake]:
    """Returns the disagreements between the sums of budgets, from one snapshot."""
    return [Mistake(*row) for row in connection.execute(_SELECT_MISTAKES)]


def select_is_live(connection: Connection, worker_id: str) -> bool:
    """Returns whether a worker lives, or lived some minutes ago."""
    return bool(connection.execute(_SELECT_IS_LIVE, {"worker_id": worker_id}).scalar_one())


def insert_earlier_charges(
    connection: Connection, budget_id: int, subject_id: str, unit: str, start: datetime, end: datetime | None
) -> Decimal:
    """Charges a period of a new budget with the cost of the subject's requests since the period began.

    The cost comes from the sums: hours that began up to an hour before the period count too, and requests without a
    record in the database or with an unknown cost are left out. Requests that were sent to no provider do not count, as
    far as their records are kept. Call it once for a period.

    Args:
        connection: in a transaction.
        budget_id: the new budget.
        subject_id: the holder or group of the budget; "gateway" for all requests.
        unit: the unit of the budget.
        start, end: the period.

    Returns:
        The amount, in the budget's unit.
    """
    is_all = subject_id == "gateway"
    keys: list[str] = [] if is_all else list(connection.execute(_SELECT_KEYS, {"subject": subject_id}).scalars())
    is_recent = start > datetime.now(UTC) - timedelta(days=31)
    values = {
        "subjects": [""] if is_all else [f"key:{key}" for key in keys],
        "is_all": is_all,
        "level": "hour" if is_recent else "day",
        "step": "1 hour" if is_recent else "1 day",
        "start": start,
        "end": end or datetime.max.replace(tzinfo=UTC),
        "keys": keys,
        "outcomes": _MAYBE_UNSENT,
    }
    tokens, counted, exact, estimated = connection.execute(_SELECT_EARLIER, values).one()
    requests = max(counted - connection.execute(_SELECT_UNSENT, values).scalar_one(), 0)
    amounts = {"usd": (exact, estimated), "tokens": (tokens, 0), "requests": (requests, 0)}[unit]
    if not any(amounts):
        return Decimal(0)
    upsert_period(connection, budget_id, start, end)
    _add(connection, compute_period_id(budget_id, start), EARLIER_REQUESTS, (*amounts, 0), requests)
    return Decimal(sum(amounts))


def _add(
    connection: Connection,
    period_id: int,
    worker: str,
    amounts: tuple[Decimal | int, Decimal | int, Decimal | int],
    requests: int,
) -> None:
    connection.execute(_LOCK_BUDGETS, {"ids": [period_id >> 32]})
    names: Sequence[str] = ("exact", "estimated", "ceiling")
    charge = {"period": period_id, "worker": worker, "requests": requests, **dict(zip(names, amounts, strict=True))}
    connection.execute(_ADD_CHARGE, charge)
    connection.execute(_ADD_LEASE, {"period": period_id, "worker": worker, "amount": sum(amounts)})
    connection.execute(_ADD_GRANTED, {"period": period_id, "amount": sum(amounts)})


def update_forgiven(connection: Connection, request_id: UUID) -> Forgiven | None:
    """Reduces the charge of a request to its known use, if it was charged the most that it could use.

    Args:
        connection: in a transaction.
        request_id: the gateway's id of the request.

    Returns:
        The reduction of its charge, which may be zero. None if there is no such request under a budget.
    """
    made_at = read_id_time(request_id)
    near = {"id": request_id, "first": made_at - ID_TOLERANCE, "last": made_at + ID_TOLERANCE}
    row = connection.execute(_SELECT_CHARGED, near).first()
    if row is None:
        return None
    usd = max((row.charged_usd or Decimal(0)) - row.cost, Decimal(0))
    tokens = max((row.charged_tokens or 0) - row.tokens, 0)
    connection.execute(
        _UPDATE_CHARGED,
        {
            "usd": (row.charged_usd or Decimal(0)) - usd,
            "tokens": (row.charged_tokens or 0) - tokens,
            "id": request_id,
            "started_at": row.started_at,
        },
    )
    periods = sorted(set(row.budget_periods))
    rows = connection.execute(_SELECT_UNITS, {"ids": [period >> 32 for period in periods]})
    units: dict[int, str] = {unit.id: unit.unit for unit in rows}
    for period in periods:
        less = {"usd": usd, "tokens": tokens}.get(units.get(period >> 32, ""), 0)
        if less:
            _add(connection, period, FORGIVEN, (0, 0, -less), 0)
    return Forgiven(usd, tokens)
