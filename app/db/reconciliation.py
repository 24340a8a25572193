"""Corrects the ledger after the database was restored from an earlier time, and reports the loss.

Every statement of a worker keeps the ledger balanced, so a restored database is balanced. But live workers continue
counting from their last delivery, and workers that ended after the backup are open again, with the requests that they
had in flight then. The requests lost in this way are moved to a line of their own.
"""

from __future__ import annotations

from datetime import date
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text

from app.db.ledger import LOST_IN_RESTORES, select_integrity
from app.db.workers import IS_MISSING

# Two reconciliations at once would both count the same loss. Locking a line here blocks no worker.
_LOCK = text(f"""
    INSERT INTO worker_ledger (worker_id, version, started, in_flight, unshipped, unrecorded, rejected, unsent, direct,
        segment, byte_offset)
    VALUES ('{LOST_IN_RESTORES}', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    ON CONFLICT (worker_id) DO UPDATE SET version = worker_ledger.version""")

_CLOSE_MISSING = text(f"""
    WITH closed AS (
        UPDATE worker SET closed_at = now(), closed_how = 'reconciled' WHERE {IS_MISSING} RETURNING worker_id, host),
    reported AS (
        SELECT worker_id, host, coalesce(in_flight + unshipped, 0) AS requests
        FROM closed LEFT JOIN worker_ledger USING (worker_id)),
    moved AS (
        UPDATE worker_ledger SET in_flight = 0, unshipped = 0, updated_at = now()
        FROM closed WHERE worker_ledger.worker_id = closed.worker_id)
    SELECT worker_id, host, requests FROM reported ORDER BY host, worker_id""")

_ADD_LOSS = text(f"""
    UPDATE worker_ledger SET started = started - :lost, version = version + 1, updated_at = now()
    WHERE worker_id = '{LOST_IN_RESTORES}'""")

# Counting the rows of a hundred million requests takes half a minute.
_COUNT_TIMEOUT = text("SET LOCAL statement_timeout = '10min'")

# Retention drops rows and keeps their sums, so only days with more rows than the sums have counted are suspicious.
_SELECT_UNCOUNTED = text("""
    SELECT day, recorded.requests - coalesce(counted.requests, 0) AS requests
    FROM (
        SELECT date_trunc('day', started_at, 'UTC') AS day, count(*) AS requests FROM activity GROUP BY 1
    ) AS recorded LEFT JOIN (
        SELECT day, sum(requests) AS requests FROM (
            SELECT start AS day, requests FROM outcome_usage WHERE level = 'day' AND subject = ''
            UNION ALL SELECT date_trunc('day', minute, 'UTC'), requests FROM rollup_delta) AS counts
        GROUP BY day
    ) AS counted USING (day)
    WHERE recorded.requests > coalesce(counted.requests, 0) ORDER BY day""")


class ClosedWorker(NamedTuple):
    """A worker whose end was lost; `requests` is the number without a record when the database last saw it."""

    worker_id: str
    host: str | None
    requests: int


class Loss(NamedTuple):
    """The result of a reconciliation.

    Attributes:
        requests: requests that were begun and have no other trace, including those of `workers`; negative if rows have
            turned up that an earlier reconciliation counted as lost.
        total: the sum over all reconciliations.
        workers: the workers that were closed.
    """

    requests: int
    total: int
    workers: list[ClosedWorker]


def update_losses(connection: Connection, *, closes_missing: bool) -> Loss:
    """Counts the missing requests as lost, so that the ledger balances; `connection` must be in a new transaction.

    Args:
        closes_missing: whether missing workers ended after the backup, so that their requests not delivered by then are
            lost too.
    """
    connection.execute(_LOCK)
    workers = [ClosedWorker(*row) for row in connection.execute(_CLOSE_MISSING)] if closes_missing else []
    ledger, outcomes = select_integrity(connection)
    lost = 2 * ledger["started"] - sum(ledger.values()) - sum(outcomes.values())
    if lost:
        connection.execute(_ADD_LOSS, {"lost": lost})
    return Loss(requests=lost, total=ledger["lost_in_restores"] + lost, workers=workers)


def select_uncounted(engine: Engine) -> dict[date, int]:
    """Returns UTC day → the number of its records that the sums lack, for days with any.

    Records are delivered without their sums while the triggers do not exist yet, as in a restore that is not one
    transaction. Days with fewer records than in the sums are normal, because retention drops records.

    Args:
        engine: an engine whose connections keep their settings, so not one through a pooler.
    """
    with engine.begin() as connection:
        connection.execute(_COUNT_TIMEOUT)
        return {row.day.date(): int(row.requests) for row in connection.execute(_SELECT_UNCOUNTED)}
