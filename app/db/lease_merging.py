"""Merges the draws from periods that ended long ago, so that the tables grow with periods and not with workers."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine, text

from app.db.workers import EARLIER_WORKERS, KEPT

# The most periods per call; this many take some tens of milliseconds.
MAX_PERIODS = 500

# A live worker closes no lease, but everything in a period is charged some seconds after the period's last request has
# ended. If the worker draws again, the lease is reopened.
_CLOSE = text("""
    UPDATE budget_lease SET closed = true
    FROM budget_period, budget_charge
    WHERE budget_period.id = budget_lease.period_id AND end_at < CAST(:now AS timestamptz) - interval '1 day'
        AND NOT closed AND budget_charge.period_id = budget_lease.period_id
        AND budget_charge.worker_id = budget_lease.worker_id AND drawn = exact + estimated + ceiling""")

_MERGE = text(f"""
    WITH old AS MATERIALIZED (
        SELECT id FROM budget_period
        WHERE end_at < :before
            AND NOT EXISTS (SELECT FROM budget_lease WHERE period_id = id AND (NOT closed OR kept))
            AND EXISTS (SELECT FROM budget_lease WHERE period_id = id AND worker_id <> '{EARLIER_WORKERS}')
        ORDER BY id LIMIT {MAX_PERIODS} FOR UPDATE SKIP LOCKED),
    leases AS (
        DELETE FROM budget_lease USING old WHERE period_id = id AND worker_id <> '{EARLIER_WORKERS}'
        RETURNING period_id, version, drawn),
    charges AS (
        DELETE FROM budget_charge USING old WHERE period_id = id AND worker_id <> '{EARLIER_WORKERS}'
        RETURNING period_id, exact, estimated, ceiling, requests),
    merged_leases AS (
        INSERT INTO budget_lease AS lease (period_id, worker_id, version, drawn, closed)
        SELECT period_id, '{EARLIER_WORKERS}', max(version), sum(drawn), true FROM leases GROUP BY period_id
        ON CONFLICT (period_id, worker_id) DO UPDATE SET drawn = lease.drawn + excluded.drawn),
    merged_charges AS (
        INSERT INTO budget_charge AS charge (period_id, worker_id, exact, estimated, ceiling, requests)
        SELECT period_id, '{EARLIER_WORKERS}', sum(exact), sum(estimated), sum(ceiling), sum(requests)
        FROM charges GROUP BY period_id
        ON CONFLICT (period_id, worker_id) DO UPDATE SET exact = charge.exact + excluded.exact,
            estimated = charge.estimated + excluded.estimated, ceiling = charge.ceiling + excluded.ceiling,
            requests = charge.requests + excluded.requests)
    SELECT count(*) FROM old""")


def merge_old_leases(engine: Engine, now: datetime) -> int:
    """Merges the leases and charges of periods that ended some days before `now` into one of each per period.

    The sums of each period stay the same at every instant. Periods with a lease of a worker that may still have records
    to ship, or with an unaccounted one, are not merged.

    Returns:
        The number of merged periods.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_CLOSE, {"now": now})
        merged: int = connection.execute(_MERGE, {"before": now - KEPT}).scalar_one()
    return merged
