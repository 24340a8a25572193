"""Compares the charges of budgets with the records of the charged requests, for recent periods."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, text

from app.db.lease_sums import EARLIER_REQUESTS

# Reading this many records takes about a second. A gateway with more per day is not checked.
MAX_REQUESTS = 200_000

# A period is found by its id, which contains the minute of its start (app/db/leases.py). One snapshot has both sides,
# because a record and its charges are written in one transaction. A request may begin well before it is charged.
_RECENT = """
    SELECT period_id, unit, sum(exact + estimated + ceiling) AS charged, sum(requests) AS requests
    FROM budget_charge JOIN budget ON budget.id = period_id >> 32
    WHERE worker_id <> :earlier
        AND to_timestamp((period_id & 4294967295) * 60) >= now() - interval '25 hours'
    GROUP BY period_id, unit"""
_SELECT_REQUESTS = text(f"SELECT coalesce(max(requests), 0) FROM ({_RECENT}) AS recent")
_SELECT_DIFFERENT = text(f"""
    WITH recent AS ({_RECENT}), recorded AS (
        SELECT period_id, sum(charged_usd) AS usd, sum(charged_tokens) AS tokens, count(*) AS requests
        FROM activity CROSS JOIN LATERAL (SELECT DISTINCT unnest(budget_periods)) AS periods (period_id)
        WHERE started_at >= now() - interval '27 hours' AND budget_periods IS NOT NULL
        GROUP BY period_id)
    SELECT count(*), count(*) FILTER (WHERE charged <> coalesce(
        CASE unit WHEN 'usd' THEN usd WHEN 'tokens' THEN tokens ELSE recorded.requests END, 0))
    FROM recent LEFT JOIN recorded USING (period_id)""")

# Records that the sums and charges include may be missing: a dump may leave them out, and an operator may delete some.
_SELECT_MISSES_RECORDS = text("""
    SELECT EXISTS (
        SELECT FROM (
            SELECT start, sum(requests) AS requests FROM outcome_usage
            WHERE level = 'minute' AND subject = '' AND start >= now() - interval '27 hours' GROUP BY start
        ) AS counted
        WHERE requests > (
            SELECT count(*) FROM activity WHERE started_at >= start AND started_at < start + interval '1 minute'))""")


class ChargeCheck(NamedTuple):
    """The number of compared periods, and the number of periods whose charges differ from their records."""

    periods: int
    different: int


def select_charge_check(connection: Connection) -> ChargeCheck | None:
    """Returns the result of comparing the periods of the last 25 hours.

    Returns:
        None if they have too many requests, or if records are missing, so that a difference would prove nothing.
    """
    earlier = {"earlier": EARLIER_REQUESTS}
    if connection.execute(_SELECT_REQUESTS, earlier).scalar_one() > MAX_REQUESTS:
        return None
    check = ChargeCheck(*connection.execute(_SELECT_DIFFERENT, earlier).one())
    if check.different and connection.execute(_SELECT_MISSES_RECORDS).scalar_one():
        return None
    return check
