"""Budgets and draws for tests of the functions of migration 0010, and the balances that must always agree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection, Engine, text

from app.db.leases import LeaseDraw, compute_period_id
from app.db.workers import upsert_closed

START = datetime(2026, 11, 1, tzinfo=UTC)
MONTH = timedelta(days=30)


def add_budget(engine: Engine, amount: str, unit: str = "tokens", window: str = "month", subject: str = "") -> int:
    """Adds a budget of a new holder, or of `subject`, and returns its id."""
    with engine.begin() as connection:
        if not subject:
            count = connection.execute(text("SELECT count(*) FROM subject")).scalar_one()
            subject = f"holder-{count}"
            connection.execute(
                text("INSERT INTO subject (id, kind, name) VALUES (:id, 'holder', :id)"), {"id": subject}
            )
        found: int = connection.execute(
            text(
                "INSERT INTO budget (subject_id, unit, amount, time_window) VALUES (:subject, :unit, :amount, :window)"
                " RETURNING id"
            ),
            {"subject": subject, "unit": unit, "amount": amount, "window": window},
        ).scalar_one()
    return found


def make_draw(budget: int, version: int, want: int, used: int = 0, **others: Any) -> LeaseDraw:
    """Returns a draw of the period from START on; all that is wanted is also needed, unless `others` overrides it."""
    start: datetime = others.pop("start", START)
    values: dict[str, Any] = {
        "need": want,
        "firm": want,
        "since": None,
        "end_at": (start + MONTH).isoformat(),
        **others,
    }
    amounts = {name: str(values.pop(name)) for name in ("need", "firm")}
    return LeaseDraw(
        budget=budget,
        period=compute_period_id(budget, start),
        start_at=start.isoformat(),
        version=version,
        used=str(used),
        want=str(want),
        **amounts,
        **values,
    )


def charge(engine: Engine, budget: int, worker_id: str, amount: int, start: datetime = START) -> None:
    """Adds a charge for a worker's requests."""
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO budget_charge (period_id, worker_id, exact, requests)"
                " VALUES (:period, :worker, :amount, 1)"
                " ON CONFLICT (period_id, worker_id) DO UPDATE SET exact = budget_charge.exact + excluded.exact,"
                " requests = budget_charge.requests + 1"
            ),
            {"period": compute_period_id(budget, start), "worker": worker_id, "amount": amount},
        )


def end_worker(engine: Engine, worker_id: str) -> None:
    """Notes in the registry that the worker's journal was adopted."""
    upsert_closed(engine, worker_id, "adopted")


def read_sums(connection: Connection) -> list[dict[str, Any]]:
    """Returns for each period its amount, the granted sum, the sums of its leases and charges, and open leases."""
    rows = connection.execute(
        text("""
        SELECT budget_period.id, budget_id, amount + extra AS total, granted,
            (SELECT coalesce(sum(drawn), 0) FROM budget_lease WHERE period_id = budget_period.id) AS drawn,
            (SELECT coalesce(sum(exact + estimated + ceiling), 0) FROM budget_charge
                WHERE period_id = budget_period.id) AS charged,
            (SELECT count(*) FROM budget_lease WHERE period_id = budget_period.id AND NOT closed) AS open
        FROM budget_period JOIN budget ON budget.id = budget_id ORDER BY budget_period.id""")
    )
    return [dict(row) for row in rows.mappings()]


def check_sums(connection: Connection, over: Decimal | int = 0) -> None:
    """Fails unless each period's granted sum equals the sum of its leases, and is at most its amount and `over`."""
    for period in read_sums(connection):
        assert period["granted"] == period["drawn"], period
        assert period["granted"] <= period["total"] + over, period
