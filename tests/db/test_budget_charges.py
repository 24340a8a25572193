"""The trigger that adds a row's charge to the periods of its budgets, once and without ever refusing a row."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, text

from app.db.activity import insert_activity
from app.db.charge_check import ChargeCheck, select_charge_check
from app.db.fold import fold_deltas
from app.db.leases import compute_period_id
from app.db.ledger import LedgerLine
from tests.db.rows import NOON, count, encode, make_row

UNKNOWN = {"cost_usd": None, "cost_kind": "unknown", "usage_source": "none"}
NO_TOKENS = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens"))


def make_periods(engine: Engine, *units: str) -> list[int]:
    """Stores a budget of each unit, and returns the ids of their periods, which need not be stored."""
    sql = "INSERT INTO budget (subject_id, unit, amount, time_window) VALUES ('gateway', :unit, 5, 'day') RETURNING id"
    with engine.begin() as connection:
        budgets = [connection.execute(text(sql), {"unit": unit}).scalar_one() for unit in units]
    return [compute_period_id(budget, datetime.now(UTC)) for budget in budgets]


def charges(engine: Engine) -> dict[tuple[int, str], tuple[Any, ...]]:
    """Returns (period, worker) → exact, estimated, ceiling, requests."""
    sql = "SELECT period_id, worker_id, exact, estimated, ceiling, requests FROM budget_charge"
    with engine.connect() as connection:
        return {(row[0], row[1]): tuple(row[2:]) for row in connection.execute(text(sql))}


def test_a_row_is_charged_once_to_each_of_its_periods_in_the_unit_of_the_budget(engine: Engine) -> None:
    periods = make_periods(engine, "usd", "tokens", "requests")
    gone = compute_period_id(1_000, NOON)
    charged = {"charged_usd": Decimal("0.000123456790"), "charged_tokens": 150, "budget_periods": [*periods, gone]}
    rows = [
        make_row(**charged),  # The cost has three excess digits, which are rounded up.
        make_row(**charged | {"cost_kind": "estimated", "usage_source": "counted", "budget_periods": periods * 2}),
        make_row(**charged | {"charged_usd": Decimal("0.5"), "charged_tokens": 1_000} | UNKNOWN | NO_TOKENS),
        # An earlier failed attempt may have been billed, so its ceiling is in the charge.
        make_row(**charged | {"charged_usd": Decimal("1.000123456790"), "charged_tokens": 1_150}),
        make_row(charged_usd=1, charged_tokens=1),
        make_row(),
    ]
    batch = encode(rows)
    for version in (1, 2):  # The second time, all rows are in the table already.
        insert_activity(engine, batch, LedgerLine(worker_id="0a1b", version=version))
    insert_activity(engine, encode([make_row(**charged)]))
    cost, usd, tokens, requests = Decimal("0.000123456790"), *periods
    assert charges(engine) == {
        (usd, "0a1b"): (2 * cost, cost, Decimal("1.5"), 4),
        (tokens, "0a1b"): (300, 150, 2_000, 4),
        (requests, "0a1b"): (4, 0, 0, 4),
        (usd, "none"): (cost, 0, 0, 1),
        (tokens, "none"): (150, 0, 0, 1),
        (requests, "none"): (1, 0, 0, 1),
    }


def test_no_charge_keeps_a_row_from_being_written(engine: Engine) -> None:
    periods = make_periods(engine, "usd", "tokens")
    with engine.begin() as connection:
        most = "INSERT INTO budget_charge VALUES (:id, 'none', :sum, :sum, :sum, 0)"
        connection.execute(text(most), [{"id": each, "sum": 10**18 - 1} for each in periods])
    absurd = [
        {"charged_usd": Decimal(10) ** 17, "charged_tokens": 2**63 - 1},
        {"charged_usd": Decimal(-5), "charged_tokens": -5},
        {"charged_usd": "NaN"} | UNKNOWN,
        {},
    ]
    rows = [make_row(**values, budget_periods=periods) for values in absurd]
    assert insert_activity(engine, encode([*rows, make_row(budget_periods=[]), make_row(budget_periods=[None])])) == 6
    assert count(engine, "activity") == 6
    assert [each[3] for each in charges(engine).values()] == [4, 4]
    assert {amount for each in charges(engine).values() for amount in each[:3]} == {10**18 - 1}


def test_charges_are_compared_with_the_records_unless_records_are_gone(engine: Engine) -> None:
    (period,) = make_periods(engine, "requests")
    now = datetime.now(UTC)
    rows = [make_row(started_at=now, budget_periods=[period]) for _ in range(3)]
    insert_activity(engine, encode(rows), LedgerLine(worker_id="0a1b", version=1))
    fold_deltas(engine, min_age_s=0)

    def check() -> ChargeCheck | None:
        with engine.connect() as connection:
            return select_charge_check(connection)

    assert check() == ChargeCheck(periods=1, different=0)
    with engine.begin() as connection:
        connection.execute(text("UPDATE budget_charge SET exact = exact + 1"))
    assert check() == ChargeCheck(periods=1, different=1)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM activity WHERE request_id = :id"), {"id": rows[0]["request_id"]})
    assert check() is None
