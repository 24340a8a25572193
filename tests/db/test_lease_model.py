"""Random draws, charges, deaths, cuts and raises of budgets against a model of their sums."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from app.db.leases import LeaseAnswer, LeaseAnswers, compute_period_id
from tests.db.budgets import START, add_budget, make_draw, read_sums
from tests.support.soak import FULL

WORKERS = ("a", "b", "c")
AMOUNT = st.integers(0, 120)

DRAW = st.tuples(st.just("draw"), st.sampled_from(WORKERS), AMOUNT, AMOUNT, AMOUNT, st.integers(-2, 2))
OPERATIONS = st.one_of(
    DRAW,
    DRAW,
    DRAW,
    st.tuples(st.just("charge"), st.sampled_from(WORKERS), AMOUNT),
    st.tuples(st.just("close"), st.sampled_from(WORKERS), st.booleans()),
    st.tuples(st.just("amount"), st.integers(0, 500)),
    st.tuples(st.just("extra"), st.integers(-50, 200)),
)


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database shared by all examples, each of which is rolled back."""
    return file_engine


@pytest.fixture(scope="module")
def budget(engine: Engine) -> int:
    """The budget that all examples share."""
    return add_budget(engine, "0")


@dataclass
class Model:
    """The expected sums of the budget and its leases."""

    total: int
    extra: int = 0
    drawn: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORKERS, 0))
    used: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORKERS, 0))
    charged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORKERS, 0))
    version: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WORKERS, 0))
    ended: set[str] = field(default_factory=set)

    def granted(self) -> int:
        return sum(self.drawn.values())

    def room(self) -> int:
        return self.total + self.extra - self.granted()


@settings(max_examples=600 if FULL else 60)
@given(amount=st.integers(0, 500), operations=st.lists(OPERATIONS, max_size=25))
def test_the_sums_agree_after_any_operations(engine: Engine, budget: int, amount: int, operations: list[Any]) -> None:
    with engine.connect() as connection:
        model = Model(amount)
        _set_amount(connection, budget, amount)
        for operation in operations:
            _carry_out(connection, budget, model, *operation)
            _compare(connection, budget, model)
        connection.rollback()


def _carry_out(connection: Connection, budget: int, model: Model, kind: str, *values: Any) -> None:
    if kind == "draw":
        _draw(connection, budget, model, *values)
    elif kind == "charge":
        worker, amount = values
        if worker not in model.ended:
            model.charged[worker] += amount
            model.used[worker] += amount
            connection.execute(_CHARGE, {"id": compute_period_id(budget, START), "worker": worker, "amount": amount})
    elif kind == "close":
        worker, keep = values
        connection.execute(_END, {"worker": worker})
        connection.execute(text("SELECT close_leases_v1(:worker, :keep)"), {"worker": worker, "keep": keep})
        if worker not in model.ended:
            kept = max(model.drawn[worker], model.charged[worker]) if keep else model.charged[worker]
            model.drawn[worker] = kept
            model.ended.add(worker)
    elif kind == "amount":
        model.total = values[0]
        _set_amount(connection, budget, model.total)
    elif connection.execute(_EXTRA, {"id": compute_period_id(budget, START), "extra": values[0]}).rowcount:
        model.extra = values[0]


def _draw(
    connection: Connection, budget: int, model: Model, worker: str, use: int, need: int, ahead: int, newer: int
) -> None:
    used = model.used[worker] + use
    version = model.version[worker] + newer
    draw = make_draw(budget, version, used + need + ahead, used=used, need=used + need, firm=used + need)
    parameters = {"worker": worker, "draws": json.dumps([msgspec.to_builtins(draw)])}
    text_answer = connection.execute(_DRAW, parameters).scalar_one()
    (answer,) = msgspec.json.decode(text_answer, type=LeaseAnswers).pots
    room, before = model.room(), model.drawn[worker]
    assert answer.applied == (worker not in model.ended and newer > 0)
    if not answer.applied:
        assert _drawn(answer) == before
        return
    model.version[worker], model.used[worker] = version, used
    least = max(before, used)
    given = _drawn(answer)
    if used + need + ahead < before:
        assert given == max(used + need + ahead, used)
    elif answer.refused:
        # Less is left than is needed beyond the amount already used.
        assert given == least and used + need - least > room - (least - before)
    else:
        assert used + need <= given <= max(used + need + ahead, least)
        assert given == least or given - before <= room
    model.drawn[worker] = given


def _compare(connection: Connection, budget: int, model: Model) -> None:
    periods = [period for period in read_sums(connection) if period["budget_id"] == budget]
    granted = periods[0]["granted"] if periods else 0
    drawn = periods[0]["drawn"] if periods else 0
    assert granted == drawn == model.granted()


def _drawn(answer: LeaseAnswer) -> int:
    return int(float(answer.drawn))


def _set_amount(connection: Connection, budget: int, amount: int) -> None:
    connection.execute(text("UPDATE budget SET amount = :amount WHERE id = :id"), {"amount": amount, "id": budget})


_DRAW = text("SELECT CAST(draw_leases_v1(:worker, CAST(:draws AS jsonb)) AS text)")
_END = text(
    "INSERT INTO worker (worker_id, closed_at, closed_how) VALUES (:worker, now(), 'adopted') ON CONFLICT DO NOTHING"
)
_EXTRA = text("UPDATE budget_period SET extra = :extra WHERE id = :id")
_CHARGE = text("""
    INSERT INTO budget_charge AS charge (period_id, worker_id, exact, requests) VALUES (:id, :worker, :amount, 1)
    ON CONFLICT (period_id, worker_id) DO UPDATE SET exact = charge.exact + excluded.exact""")
