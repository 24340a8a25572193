"""Leases as the operator sees and corrects them, the initial charges of a new budget, and the merging of old leases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, text

from app.db.activity import insert_activity
from app.db.budgets import select_budget
from app.db.fold import fold_deltas
from app.db.lease_merging import merge_old_leases
from app.db.lease_sums import (
    insert_earlier_charges,
    select_leases,
    select_mistakes,
    update_forgiven,
)
from app.db.leases import close_leases, compute_period_id, draw_leases
from app.services.administration.earlier import charge_earlier_requests
from app.services.journal import make_request_id
from tests.db.budgets import START, add_budget, charge, check_sums, end_worker, make_draw, read_sums


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database for all tests of this file."""
    return file_engine


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """A transaction on that database, which ends with the test."""
    with engine.connect() as connection:
        connection.execute(text("TRUNCATE worker, budget, budget_period, budget_lease, budget_charge CASCADE"))
        connection.commit()
        yield connection


def add_request(engine: Engine, key: str, started_at: datetime, **values: object) -> UUID:
    request_id = UUID(make_request_id())
    row = {
        "request_id": str(request_id),
        "started_at": started_at.isoformat(),
        "ended_at": started_at.isoformat(),
        "key_id": key,
        "endpoint": "/v1/chat/completions",
        "outcome": "ok",
        "status": 200,
        "stream": False,
        "cost_kind": "unknown",
        "usage_source": "none",
        "attempts": [],
        **values,
    }
    assert insert_activity(engine, [json.dumps(row).encode()]) == 1
    return request_id


def test_leases_are_listed_by_worker_and_mistakes_are_found(engine: Engine, connection: Connection) -> None:
    budget = add_budget(engine, "1000")
    for worker, drawn, charged in (("a", 400, 100), ("b", 200, 200), ("c", 300, 50)):
        draw_leases(engine, worker, [make_draw(budget, 1, drawn)])
        charge(engine, budget, worker, charged)
    end_worker(engine, "c")
    close_leases(engine, "c", keep=True)
    rows = {row.worker_id: row for row in select_leases(connection, 10)}
    assert rows.keys() == {"a", "c"}
    assert (rows["a"].worker_state, rows["a"].drawn, rows["a"].charged, rows["a"].closed) == ("none", 400, 100, False)
    assert (rows["c"].worker_state, rows["c"].kept, rows["c"].drawn - rows["c"].charged) == ("adopted", True, 250)
    assert select_mistakes(connection) == []
    connection.rollback()
    period = compute_period_id(budget, START)
    with engine.begin() as other:
        other.execute(text("UPDATE budget_period SET granted = granted + 500"))
        other.execute(text("UPDATE budget_lease SET drawn = drawn - 260 WHERE worker_id = 'c'"))
    found = [
        (each.kind, each.period_id, each.worker_id, each.found - each.expected) for each in select_mistakes(connection)
    ]
    assert found == [("above", period, None, 400), ("granted", period, None, 760), ("kept", period, "c", -10)]


def test_a_new_budget_begins_with_what_its_period_has_cost(engine: Engine, connection: Connection) -> None:
    now = datetime.now(UTC)
    start = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=5)
    with engine.begin() as other:
        other.execute(
            text("""
            INSERT INTO subject (id, kind, name) VALUES ('g', 'group', 'g') ON CONFLICT DO NOTHING;
            INSERT INTO subject (id, kind, name, group_id) VALUES ('h', 'holder', 'h', 'g') ON CONFLICT DO NOTHING;
            INSERT INTO api_key (id, name, digest, last_four, holder_id) VALUES ('k1', 'k', '1', 'aaaa', 'h'),
                ('k2', 'k', '2', 'aaaa', 'h')""")
        )
    costs = {"cost_usd": "1.5", "cost_kind": "exact", "prompt_tokens": 10, "completion_tokens": 20}
    add_request(engine, "k1", now - timedelta(minutes=1), **costs)
    add_request(engine, "k2", start, **costs | {"cost_kind": "estimated"})
    add_request(engine, "k2", start - timedelta(hours=2), **costs)
    add_request(engine, "other", now - timedelta(minutes=2), **costs)
    # A rejected request uses nothing, even before it is folded; one that failed at its provider counts as a request.
    add_request(engine, "k1", now - timedelta(minutes=1), outcome="rejected", status=403)
    add_request(engine, "k1", now - timedelta(minutes=1), outcome="upstream_error", status=502)
    # A request that ended before it was sent uses nothing, whatever its outcome; the one for a free model was sent.
    unsent = {"cost_usd": "0", "cost_kind": "exact", "prompt_tokens": None, "completion_tokens": None}
    for outcome in ("client_gone", "upstream_error", "gateway_shutdown"):
        add_request(engine, "k1", now - timedelta(minutes=1), status=499, **unsent | {"outcome": outcome})
    free = {"cost_usd": "0", "cost_kind": "exact", "prompt_tokens": 0, "completion_tokens": 0}
    add_request(engine, "k2", now - timedelta(minutes=1), status=499, **free | {"outcome": "client_gone"})
    fold_deltas(engine, min_age_s=0)
    add_request(engine, "k2", now - timedelta(minutes=1), status=499, **unsent | {"outcome": "client_gone"})
    add_request(engine, "k2", now - timedelta(minutes=1), outcome="rejected", status=402)
    add_request(engine, "k1", now - timedelta(minutes=1), **costs)
    expected = {("h", "usd"): "4.5", ("g", "tokens"): 90, ("h", "requests"): 5, ("gateway", "usd"): 6}
    for (subject, unit), amount in expected.items():
        budget = add_budget(engine, "2", unit=unit, subject=subject)
        with engine.begin() as other:
            assert insert_earlier_charges(other, budget, subject, unit, start, None) == Decimal(amount)
        (period,) = [each for each in read_sums(connection) if each["budget_id"] == budget]
        assert period["granted"] == period["drawn"] == period["charged"] == Decimal(amount)
        (answer,) = draw_leases(engine, "a", [make_draw(budget, 1, 1, start=start, end_at=None)]).pots
        assert answer.refused and Decimal(answer.charged or 0) == Decimal(amount)
        connection.rollback()
    rolling = add_budget(engine, "9", unit="usd", window="rolling:24h", subject="h")
    with engine.begin() as other:
        row = select_budget(other, rolling, lock=True)
        assert row is not None
        charge_earlier_requests(other, row)
    charged = [each["charged"] for each in read_sums(connection) if each["budget_id"] == rolling]
    assert charged == [Decimal("1.5"), Decimal("1.5"), 3]
    connection.rollback()
    (kinds,) = connection.execute(
        text("SELECT exact, estimated FROM budget_charge WHERE exact = 3 AND estimated > 0")
    ).all()
    assert tuple(kinds) == (3, Decimal("1.5"))


def test_a_forgiven_request_is_charged_what_it_is_known_to_have_used(engine: Engine, connection: Connection) -> None:
    usd, tokens = add_budget(engine, "10", unit="usd"), add_budget(engine, "1000")
    now = datetime.now(UTC)
    periods = [compute_period_id(budget, START) for budget in (usd, tokens)]
    charged = {"charged_usd": "2.5", "charged_tokens": 300, "budget_periods": periods}
    for budget in (usd, tokens):
        draw_leases(engine, "none", [make_draw(budget, budget, 3 if budget == usd else 300, used=0)])
    lost = add_request(engine, "k", now, outcome="lost", **charged)
    known = {"prompt_tokens": 40, "completion_tokens": 50, "cost_usd": "0.5", "cost_kind": "exact"}
    exact = {"charged_usd": "0.5", "charged_tokens": 90}
    add_request(engine, "k", now, usage_source="provider", **charged | known | exact)
    with engine.begin() as other:
        assert update_forgiven(other, lost) == (Decimal("2.5"), 300)
        assert update_forgiven(other, lost) == (0, 0)
        assert update_forgiven(other, UUID(make_request_id())) is None
    sums = {each["budget_id"]: (each["drawn"], each["charged"]) for each in read_sums(connection)}
    assert sums == {usd: (Decimal("0.5"), Decimal("0.5")), tokens: (0, 90)}
    check_sums(connection)
    assert select_mistakes(connection) == []


def test_leases_of_periods_that_are_long_over_are_merged(engine: Engine, connection: Connection) -> None:
    budget = add_budget(engine, "1000")
    later = START + timedelta(days=40)
    for number, worker in enumerate(("a", "b", "c")):
        draw_leases(engine, worker, [make_draw(budget, 1, 100 + number)])
        draw_leases(engine, worker, [make_draw(budget, 2, 100, start=later)])
        charge(engine, budget, worker, 100 + number)
    end_worker(engine, "a")
    close_leases(engine, "a", keep=False)
    before = read_sums(connection)
    connection.rollback()
    # Workers b and c are alive, but have been charged for everything that they drew of the first period.
    assert merge_old_leases(engine, later + timedelta(days=1)) == 1
    assert merge_old_leases(engine, later + timedelta(days=1)) == 0
    after = read_sums(connection)
    assert [{**each, "open": 0} for each in after] == [{**each, "open": 0} for each in before]
    rows = connection.execute(text(f"SELECT worker_id FROM budget_lease WHERE period_id = {before[0]['id']}"))
    assert list(rows.scalars()) == ["earlier workers"] and after[1]["open"] == 2
