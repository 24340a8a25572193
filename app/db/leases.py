"""Draws of workers from budgets, by the functions of migration 0010.

A worker states absolute totals, the amount drawn of a period and how much of that is used, with a version that counts
up. So a draw can be repeated, an unanswered one leaks nothing, and one that is executed late changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, Engine, text

from app.db.function_calls import call_function, encode_draws

_SELECT_DRAW_LEASES = "SELECT CAST(draw_leases_v1(%(worker_id)s, CAST(%(pots)s AS jsonb)) AS text)"
_SELECT_CLOSE = "SELECT CAST(close_leases_v1(%(worker_id)s, %(keep)s) AS text)"
_UNKEEP = text("UPDATE budget_lease SET kept = false WHERE worker_id = :worker_id AND kept")

_UPSERT_PERIOD = text("""
    INSERT INTO budget_period (id, budget_id, start_at, end_at) VALUES (:id, :budget_id, :start_at, :end_at)
    ON CONFLICT (id) DO UPDATE SET end_at = excluded.end_at""")

# All periods within a rolling window count, so their sums are those of the room in the newest one.
_SELECT_STATES = text("""
    SELECT wanted.period, CAST(extract(epoch FROM now()) AS float8),
        CAST(budget.amount + sums.extra AS text), CAST(sums.granted AS text),
        CAST(sums.charged AS text), sums.warned_percent,
        CAST(extract(epoch FROM clock_timestamp() - sums.recalled_at) AS float8), sums.oldest
    FROM jsonb_to_recordset(CAST(:pots AS jsonb)) AS wanted (budget bigint, period bigint, start_at timestamptz,
        since timestamptz)
    JOIN budget ON budget.id = wanted.budget
    CROSS JOIN LATERAL (
        SELECT sum(extra) AS extra, sum(granted) AS granted, max(recalled_at) AS recalled_at,
            min(id) FILTER (WHERE granted > 0) AS oldest,
            max(warned_percent) FILTER (WHERE id = wanted.period) AS warned_percent,
            coalesce(sum((SELECT sum(exact + estimated + ceiling) FROM budget_charge WHERE period_id = id)), 0)
                AS charged
        FROM budget_period
        WHERE budget_id = wanted.budget AND start_at >= coalesce(wanted.since, wanted.start_at)
            AND (wanted.since IS NOT NULL OR start_at = wanted.start_at)) AS sums
    WHERE sums.granted IS NOT NULL""")

_UPDATE_WARNED = text("""
    UPDATE budget_period SET warned_percent = :percent WHERE id = :period AND warned_percent < :percent""")


class LeaseDraw(msgspec.Struct, frozen=True, kw_only=True):
    """A worker's draw from one period of a budget. Amounts are decimal numbers in the budget's unit.

    Attributes:
        budget: the budget's id.
        period: the id of the period, from `compute_period_id`.
        start_at, end_at: the period; it has no end if the budget is for ever.
        since: the start of the oldest period that counts, for a rolling window; else None.
        version: greater than in all earlier draws of the worker.
        used: the total that the worker has used of the period, including running requests.
        spent: the part of it used by ended requests; running ones may still give some back.
        held: the total that the worker keeps for certain; None for all that it has drawn. The rest goes back before
            anything is given.
        need: the smallest useful total; less is refused.
        firm: the total that waiting requests need.
        want: the total that the worker would like to have; an amount beyond it is given back.
    """

    budget: int
    period: int
    start_at: str
    end_at: str | None
    since: str | None
    version: int
    used: str
    spent: str = "0"
    held: str | None = None
    need: str
    firm: str
    want: str


class PeriodQuery(msgspec.Struct, frozen=True, kw_only=True):
    """A period whose state is queried; the fields are those of LeaseDraw."""

    budget: int
    period: int
    start_at: str
    since: str | None


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a draw.

    Attributes:
        period: the period of the draw.
        version: the newest version of the worker's draws from this period that the database knows.
        applied: whether the draw was executed. It is not if a newer one was, or if the worker's leases are closed.
        refused: whether less was left than needed; the worker then has the amount that it held.
        drawn: the total that the worker now has of the period.
        total: the amount of the budget, plus additions in the window.
        granted: the total that all workers have, in the window.
        charged: the total charged to requests of the window, or due because they have ended, except those of this
            worker in this period; only if the draw was refused.
        ended: whether the budget has ended; then it refuses nothing.
        recalled_s: seconds since a draw of any worker found too little; None if none did.
        oldest: the id of the oldest period in the window with a granted amount before the draw; None if there is none.
    """

    period: int
    version: int
    applied: bool
    refused: bool
    drawn: str
    total: str
    granted: str
    charged: str | None
    ended: bool
    recalled_s: float | None
    oldest: int | None


class LeaseAnswers(msgspec.Struct, frozen=True):
    """The answers to one call, and PostgreSQL's time, in seconds since 1970. Nonexistent budgets have no answer."""

    now: float
    pots: list[LeaseAnswer]


class PeriodState(NamedTuple):
    """The sums of a period, or of the whole window of a rolling one; amounts as in LeaseAnswer.

    `now` is PostgreSQL's time, in seconds since 1970, and `warned_percent` the highest share with a warning.
    """

    period: int
    now: float
    total: str
    granted: str
    charged: str
    warned_percent: int
    recalled_s: float | None
    oldest: int | None


class KeptAmount(msgspec.Struct, frozen=True):
    """An amount of a period that stays granted although its worker has ended."""

    period: int
    amount: str
    unit: str


class ClosedLeases(msgspec.Struct, frozen=True):
    """The number of closed leases, and those that keep an amount that was not charged."""

    leases: int
    kept: list[KeptAmount]


_decode_leases = msgspec.json.Decoder(LeaseAnswers).decode
_decode_closed = msgspec.json.Decoder(ClosedLeases).decode


def compute_period_id(budget_id: int, start: datetime) -> int:
    """Returns the id of a budget's period that begins at `start`, a whole minute.

    It needs no database, so a request can name its periods during an outage.
    """
    return budget_id << 32 | int(start.timestamp()) // 60


def compute_period_start(period_id: int) -> datetime:
    """Returns the start of the period with this id, in UTC."""
    return datetime.fromtimestamp((period_id & 0xFFFFFFFF) * 60, UTC)


def upsert_period(connection: Connection, budget_id: int, start: datetime, end: datetime | None) -> int:
    """Creates the row of a period if there is none, and returns its id."""
    period_id = compute_period_id(budget_id, start)
    values = {"id": period_id, "budget_id": budget_id, "start_at": start, "end_at": end}
    connection.execute(_UPSERT_PERIOD, values)
    return period_id


def draw_leases(engine: Engine, worker_id: str, draws: Sequence[LeaseDraw]) -> LeaseAnswers:
    """Executes draws from budgets in one transaction, and waits until it is on disk."""
    return _decode_leases(
        call_function(engine, _SELECT_DRAW_LEASES, {"worker_id": worker_id, "pots": encode_draws(draws)})
    )


def close_leases(engine: Engine, worker_id: str, *, keep: bool) -> ClosedLeases:
    """Closes all leases of a worker that has ended and whose records are delivered. Repeating it is safe.

    Args:
        engine: the database.
        worker_id: the worker; the registry must have it as ended, so that a draw that is executed later is ignored.
        keep: whether records may be missing; then drawn amounts that were not charged stay granted.
    """
    return _decode_closed(call_function(engine, _SELECT_CLOSE, {"worker_id": worker_id, "keep": keep}))


def release_leases(connection: Connection, worker_id: str, *, free: bool) -> ClosedLeases:
    """Closes all leases of a worker that may still live, in the caller's transaction.

    Args:
        connection: in a transaction.
        worker_id: the worker. If it lives, its next draws reopen the leases.
        free: whether uncharged amounts are given back, including those kept before; if not, they stay granted.
    """
    if free:
        connection.execute(_UNKEEP, {"worker_id": worker_id})
    parameters = {"worker_id": worker_id, "keep": not free}
    return _decode_closed(connection.exec_driver_sql(_SELECT_CLOSE, parameters).scalar_one())


def select_states(engine: Engine, queries: Sequence[PeriodQuery]) -> list[PeriodState]:
    """Returns the state of periods, without drawing and without a lock. Periods without any draw are left out."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return [PeriodState(*row) for row in connection.execute(_SELECT_STATES, {"pots": encode_draws(queries)})]


def update_warned(engine: Engine, period_id: int, percent: int) -> bool:
    """Marks a warning as sent; returns False if another worker has sent it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(_UPDATE_WARNED, {"period": period_id, "percent": percent}).rowcount == 1
