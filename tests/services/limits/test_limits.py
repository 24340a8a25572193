"""Limits of requests: reservations, refusals, and changes of limits while requests run."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from app.db.leases import compute_period_id, compute_period_start
from app.errors import GatewayError, Unavailable
from app.limit_errors import InsufficientQuota, LimitReached
from app.services.limits import Budget, BudgetWarning, Ceiling, Charge, Limits, Policy, Reservation, Subject
from app.services.limits.acquisition import take_at_once
from app.services.limits.budget_pots import BudgetPot
from app.services.limits.lease_draws import MAX_POTS
from tests.services.limits.conftest import MakeLimits
from tests.support.budget_sums import BudgetSums
from tests.support.database_clock import shift_clock
from tests.support.waiting import wait_until

USD = 10**12


def subject(*budgets: list[Any], kind: Any = "holder", warn: tuple[int, ...] = (), **bounds: int) -> Subject:
    made = tuple(Budget(id, unit, amount, window, "UTC", 1, warn) for id, unit, amount, window in budgets)
    names = ("requests_per_minute", "tokens_per_minute", "concurrent")
    rates = {name: bounds.get(name) for name in names}
    return Subject(kind, kind, "alice", None, (), max_output_tokens=None, budgets=made, **rates)


def policy(*subjects: Subject) -> Policy:
    return Policy(subjects, (), None)


def ceiling(cost: int | None = 0, tokens: int | None = 100, rate_tokens: int | None = None) -> Ceiling:
    return Ceiling(cost, tokens, rate_tokens, lambda usd, left: min(usd // 10**9, left) - 1)


def reserve(limits: Limits, limited: Policy, *ceilings: Ceiling) -> Reservation:
    reservation = limits.enter(limited)
    try:
        reservation.reserve(ceilings or [ceiling()])
    except (GatewayError, ValueError):
        reservation.release()
        raise
    return reservation


def end(reservation: Reservation, cost: int = 0, tokens: int = 0, requests: int = 1) -> None:
    reservation.settle(Charge(cost, tokens, requests, tokens))
    reservation.release()


def test_a_budget_that_is_used_up_says_what_would_fit(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limited = policy(subject(sums.add_budget("50", unit="usd"), kind="group"))
    limits = make_limits()
    end(reserve(limits, limited, ceiling(49 * USD)), cost=int(49.82 * USD))
    with pytest.raises(InsufficientQuota) as caught:
        reserve(limits, limited, ceiling(28 * USD // 100))
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0) + timedelta(days=32)
    resets = f"{month.replace(day=1):%Y-%m-%dT%H:%M:%SZ}"
    assert caught.value.message == (
        "The group's budget of 50.00 USD a month has 0.18 USD left; this request may use up to 0.28 USD."
        f" Send max_tokens of at most 179, wait until {resets} or ask the operator for more."
    )
    assert (caught.value.status, caught.value.code, caught.value.type) == (402, *["insufficient_quota"] * 2)
    limit = f"group budget month; resets={resets}"
    assert caught.value.headers() == {"x-should-retry": "false", "x-gateway-limit": limit}
    # A free request passes even when the budget is used up.
    free = reserve(limits, limited, ceiling(0))
    assert free.period_ids and free.ceiling_usd == "0.000000000000"
    end(free)
    with pytest.raises(LimitReached) as other:
        reserve(make_limits(BUDGET_STATUS="429"), limited, ceiling(28 * USD // 100))
    assert other.value.status == 429


def test_of_a_rolling_window_the_reset_is_when_the_oldest_use_counts_no_more(
    make_limits: MakeLimits, sums: BudgetSums
) -> None:
    (id, *_) = made = sums.add_budget("3", unit="requests", window="rolling:24h")
    limited, limits = policy(subject(made)), make_limits()
    for _ in range(3):
        end(reserve(limits, limited))
    hour = compute_period_start(sums.read()[0]["id"])
    for oldest in (0, 9):
        if oldest:
            for hours, granted in ((12, 0), (oldest, 1)):
                start = hour - timedelta(hours=hours)
                values = f"{compute_period_id(id, start)}, {id}, '{start.isoformat()}', {granted}"
                sums.execute(f"INSERT INTO budget_period (id, budget_id, start_at, granted) VALUES ({values})")
        with pytest.raises(LimitReached) as caught:
            reserve(make_limits(), limited, ceiling(10**7))
        resets = f"{hour + timedelta(hours=25 - oldest):%Y-%m-%dT%H:%M:%SZ}"
        assert caught.value.headers()["x-gateway-limit"] == f"key budget rolling:24h; resets={resets}"
    # If the budget counts requests, asking for less output would not help.
    with pytest.raises(InsufficientQuota) as refused:
        reserve(limits, limited, ceiling(10**7))
    assert refused.value.param is None and refused.value.message == (
        "The key's budget of 3 requests in any 24 hours has 0 requests left; this request may use up to 1 request."
        " Wait until earlier requests are out of this window or ask the operator for more."
    )


def test_output_that_costs_nothing_is_no_way_to_fit(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limits, limited = make_limits(), policy(subject(sums.add_budget("5", unit="usd")))
    with pytest.raises(InsufficientQuota) as caught:
        reserve(limits, limited, Ceiling(6 * USD, 100, None, lambda usd, tokens: tokens - 100))
    assert caught.value.param is None and "max_tokens" not in caught.value.message


def test_what_requests_in_flight_hold_may_come_back(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limited = policy(subject(sums.add_budget("1000")))
    first, second = make_limits(), make_limits()
    held = reserve(first, limited, ceiling(tokens=900))
    for limits in (first, second):
        with pytest.raises(LimitReached) as caught:
            reserve(limits, limited, ceiling(tokens=200))
        assert (caught.value.status, caught.value.code) == (429, "budget_reserved")
        assert caught.value.headers()["retry-after-ms"] == "1000"
    end(held, tokens=10)
    # A request is settled once; a later settlement changes nothing.
    end(held, tokens=500)
    wait_until(lambda: _can_reserve(second, limited, 990), what="what the other worker gave back")
    (period,) = sums.read()
    assert period["granted"] <= 1000


def test_what_ended_requests_have_used_is_used_up_before_it_is_charged(
    make_limits: MakeLimits, sums: BudgetSums
) -> None:
    limited = policy(subject(sums.add_budget("3", unit="requests", window="total")))
    first, second = make_limits(), make_limits()
    for limits in (first, second, first):
        end(reserve(limits, limited))
    for limits in (second, first):
        with pytest.raises(InsufficientQuota) as caught:
            reserve(limits, limited)
        assert caught.value.status == 402
    (period,) = sums.read()
    assert (period["granted"], period["charged"]) == (3, 0), "no record has been delivered"


def _can_reserve(limits: Limits, limited: Policy, tokens: int) -> bool:
    try:
        end(reserve(limits, limited, ceiling(tokens=tokens)))
    except LimitReached:
        return False
    return True


def test_all_subjects_and_units_must_have_room(make_limits: MakeLimits, sums: BudgetSums) -> None:
    holder = subject(sums.add_budget("5", unit="requests"), sums.add_budget("10", unit="usd", subject="bob"))
    group = subject(sums.add_budget("500", subject="carol", window="total"), kind="group")
    limits, limited = make_limits(), policy(holder, group, subject(kind="gateway", concurrent=3))
    held = [reserve(limits, limited, ceiling(USD, 10)) for _ in range(3)]
    assert len(held[0].period_ids) == 3 and held[0].ceiling_tokens == 10
    with pytest.raises(LimitReached, match="gateway's limit of 3 concurrent requests") as caught:
        reserve(limits, limited, ceiling(USD, 10))
    assert caught.value.headers()["x-gateway-limit"] == "gateway concurrent requests"
    for reservation in held:
        end(reservation, cost=USD, tokens=10)
    with pytest.raises(InsufficientQuota, match="group's budget of 500 tokens in all has 470 tokens left") as refused:
        reserve(limits, limited, ceiling(USD, 471))
    assert refused.value.param == "max_tokens"
    # Refused requests hold nothing.
    end(reserve(limits, limited, ceiling(7 * USD, 470)), cost=7 * USD)
    for unknown in (ceiling(None), ceiling(0, None)):
        with pytest.raises(ValueError, match="an amount that is not known"):
            reserve(limits, limited, unknown)
    end(reserve(limits, limited, ceiling(0, 10)))
    with pytest.raises(InsufficientQuota, match="5 requests a month has 0 requests left"):
        reserve(limits, limited, ceiling(0, 10))


def test_a_request_that_one_pot_refuses_leaves_no_trace_in_the_others() -> None:
    marked: list[Any] = []

    def make_pot(unit: Any) -> BudgetPot:
        budget = Budget(1, unit, "1000", "day", "UTC", 1, ())
        return BudgetPot(subject(), budget, lambda now_s: 1_700_000_000 + now_s, marked.append)

    rich, poor = make_pot("tokens"), make_pot("usd")
    rich.current.set_drawn(1_000)
    for cost, error in ((1, None), (None, ValueError)):
        with pytest.raises(error) if error else nullcontext():
            assert take_at_once([rich.share, poor.share], (cost, 900, 1, 0, 0), 0.0) is None
        assert (rich.current.free, rich.share.taken, rich.share.largest, marked) == (1_000, 0, 0, [])


def test_the_dearest_target_counts_and_attempts_add_up(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limited = policy(subject(sums.add_budget("100", unit="usd"), sums.add_budget("5", unit="requests")))
    limits = make_limits()
    reservation = reserve(limits, limited, ceiling(10 * USD), ceiling(30 * USD, 50))
    assert (reservation.ceiling_usd, reservation.ceiling_tokens) == ("30.000000000000", 100)
    reservation.add_attempt(ceiling(60 * USD, 70))
    assert (reservation.ceiling_usd, reservation.ceiling_tokens) == ("90.000000000000", 170)
    with pytest.raises(LimitReached):
        reservation.add_attempt(ceiling(20 * USD))
    assert reservation.ceiling_usd == "90.000000000000" and len(reservation.period_ids) == 2
    end(reservation, cost=40 * USD)
    for _ in range(4):
        end(reserve(limits, limited, ceiling(15 * USD)), cost=0)
    wait_until(lambda: [int(period["granted"]) for period in sums.read()] == [40, 5], what="the rest to go back")


def test_rates_tell_how_long_to_wait_and_refused_requests_use_none(make_limits: MakeLimits, sums: BudgetSums) -> None:
    budget = sums.add_budget("1")
    limited = policy(subject(budget, requests_per_minute=3, tokens_per_minute=1_000, concurrent=100))
    free = policy(subject(requests_per_minute=3, tokens_per_minute=1_000, concurrent=100))
    limits = make_limits()
    for _ in range(5):
        with pytest.raises(InsufficientQuota):
            reserve(limits, limited, ceiling(0, 100, 200))
    for number in range(3):
        reservation = reserve(limits, free, ceiling(0, 100, 300))
        end(reservation, tokens=100)
        headers = reservation.get_headers()
        assert headers["x-ratelimit-limit-requests"] == "3" and headers["x-ratelimit-limit-tokens"] == "1000"
        assert headers["x-ratelimit-remaining-requests"] == str(2 - number)
    with pytest.raises(LimitReached) as caught:
        limits.enter(free)
    error = caught.value
    assert (error.status, error.code, error.headers()["x-gateway-limit"]) == (
        429,
        "rate_limit_exceeded",
        "key requests per minute",
    )
    assert error.retry_after_s is not None and 50 < error.retry_after_s < 62
    assert error.headers()["x-ratelimit-remaining-requests"] == "0"
    assert error.headers()["x-ratelimit-reset-requests"].startswith(("59", "1m"))


def test_unsaid_output_is_taken_to_be_what_others_used(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limits, limited = make_limits(), policy(subject(tokens_per_minute=300))
    # A request for more than the rate may begin, and its unused tokens come back.
    end(reserve(limits, limited, ceiling(0, 100, 5_000)), tokens=44)
    unsaid = reserve(limits, limited, ceiling(0, 100, None))
    with pytest.raises(LimitReached, match="This request needs up to"):
        reserve(limits, limited, ceiling(0, 100, None))
    # The request used more than it held, so the rate is in debt.
    end(unsaid, tokens=9_000)
    with pytest.raises(LimitReached):
        wait_until(lambda: reserve(limits, limited, ceiling(0, 100, 1)).release(), timeout_s=5)


def test_changes_of_a_budget_count_for_requests_that_run(make_limits: MakeLimits, sums: BudgetSums) -> None:
    budget = sums.add_budget("1000")
    limits, other = make_limits(), make_limits()
    held = reserve(limits, policy(subject(budget)), ceiling(tokens=600))
    sums.execute(f"UPDATE budget SET amount = 300 WHERE id = {budget[0]}")
    cut = policy(subject([*budget[:2], "300", "month"]))
    with pytest.raises(LimitReached):
        reserve(other, cut, ceiling(tokens=1))
    end(held, tokens=100)
    wait_until(lambda: sums.read()[0]["granted"] == 100, what="what is above the new amount to go back")
    time.sleep(0.11)  # Refusals are cached for a tenth of a second.
    end(reserve(other, cut, ceiling(tokens=200)), tokens=200)
    with pytest.raises(LimitReached):
        reserve(limits, cut, ceiling(tokens=1))
    sums.execute("UPDATE budget_period SET extra = 50")
    time.sleep(0.11)
    held = reserve(limits, cut, ceiling(tokens=50))
    sums.execute("UPDATE budget SET ended_at = now()")
    # A worker that does not know of a budget's end yet learns of it at its next draw.
    ended = reserve(limits, cut, ceiling(tokens=5_000))
    end(held, tokens=50)
    end(ended, tokens=70)
    assert limits.enter(policy(subject(requests_per_minute=5))).period_ids == []
    wait_until(lambda: sums.read()[0]["granted"] == 420, what="the rest to go back")


def test_what_is_taken_during_a_call_is_not_given_back_by_the_next(
    make_limits: MakeLimits, sums: BudgetSums, database_url: str
) -> None:
    windows = ("day", "week", "month", "total", "rolling:24h", "rolling:30d")
    budgets = [sums.add_budget("200", window=window, subject=f"s{number}") for number in range(8) for window in windows]
    more = [sums.add_budget("200", window=window, subject="last") for window in windows]
    # More budgets than one call can draw from; the last four are drawn by a second one.
    all_of_them = policy(subject(*budgets, *more))
    assert len(budgets) < MAX_POTS < len(budgets) + len(more)
    first, second = make_limits(), make_limits()
    held = [reserve(first, all_of_them, ceiling(tokens=100)) for _ in range(2)]
    with sums.watching(), create_engine(database_url).connect() as blocker:
        blocker.execute(text(f"SELECT FROM budget WHERE id = {budgets[0][0]} FOR UPDATE"))
        end(held.pop())
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%draw_leases%'"
        wait_until(lambda: sums.select(query)[0][0], what="the first call to wait")
        taken = reserve(first, policy(subject(*more[2:])), ceiling(tokens=100))
        blocker.rollback()
        wait_until(lambda: sums.read()[0]["granted"] == 100, what="the calls to end")
        time.sleep(0.2)
        with pytest.raises(LimitReached):
            reserve(second, policy(subject(more[-1])), ceiling(tokens=100))
        end(taken, tokens=100)
        end(held.pop(), tokens=100)
        time.sleep(0.2)


def test_requests_belong_to_the_day_in_which_they_began(
    make_limits: MakeLimits, sums: BudgetSums, database_url: str
) -> None:
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    shift_clock(database_url, f"{(midnight - now).total_seconds() - 3} seconds")
    limits, limited = make_limits(), policy(subject(sums.add_budget("100000", window="day")))
    before = reserve(limits, limited, ceiling(tokens=600))
    wait_until(lambda: len(sums.read()) == 2, what="the next day to be drawn from ahead")
    after = before
    while after.period_ids == before.period_ids:
        after = reserve(limits, limited, ceiling(tokens=600))
        end(after, tokens=0 if after.period_ids == before.period_ids else 300)
        time.sleep(0.02)
    end(before, tokens=500)
    wait_until(lambda: sums.read()[0]["granted"] == 500, what="the rest of the day that is over to go back")
    assert sums.read()[1]["granted"] >= 300
    # The clock is set back, so the previous day's period continues.
    shift_clock(database_url, f"{(midnight - datetime.now(UTC)).total_seconds() - 600} seconds")
    limits.runtime.get(_database()).lease_engine.dispose()
    wait_until(lambda: reserve_in(limits, limited) == before.period_ids, what="the worker to follow the clock")
    with pytest.raises(InsufficientQuota):
        reserve(limits, limited, ceiling(tokens=99_501))


def _database() -> Any:
    from app.db import Database

    return Database


def reserve_in(limits: Limits, limited: Policy) -> list[int]:
    reservation = reserve(limits, limited, ceiling(tokens=1))
    reservation.release()
    return reservation.period_ids


def test_each_share_is_warned_of_once_over_all_workers(make_limits: MakeLimits, sums: BudgetSums) -> None:
    budget = sums.add_budget("1000")
    limited = policy(subject(budget, warn=(50, 90)))
    warnings: list[BudgetWarning] = []
    workers = [make_limits() for _ in range(3)]
    for limits in workers:
        limits.on_warning = warnings.append
        end(reserve(limits, limited, ceiling(tokens=200)), tokens=200)
    period = sums.read()[0]["id"]
    sums.execute(f"INSERT INTO budget_charge (period_id, worker_id, exact, requests) VALUES ({period}, 'w', 600, 3)")
    wait_until(lambda: warnings, what="the first warning")
    reservation = reserve(workers[0], limited, ceiling(tokens=1))
    end(reservation)
    wait_until(lambda: reservation.get_headers(), what="the header")
    assert reservation.get_headers()["x-gateway-budget-warning"].startswith("key budget month; used=60%; resets=")
    sums.execute("UPDATE budget_charge SET exact = 950")
    wait_until(lambda: len(warnings) == 2, what="the second warning")
    assert [warning.percent for warning in warnings] == [50, 90]
    assert (warnings[1].charged, warnings[1].amount, warnings[1].unit) == ("950", "1000", "tokens")


def test_without_a_database_the_settings_decide(make_limits: MakeLimits, sums: BudgetSums) -> None:
    limited = policy(subject(sums.add_budget("1000"), requests_per_minute=2, concurrent=2))
    away = {"DATABASE_URL": "postgresql+psycopg2://nobody@127.0.0.1:1/none"}
    with pytest.raises(Unavailable) as caught:
        reserve(make_limits(**away), limited)
    assert (caught.value.code, caught.value.status, caught.value.headers()) == (
        "budget_unavailable",
        503,
        {"retry-after": "5"},
    )
    serving = make_limits(**away, BUDGET_OUTAGE="serve")
    held = [reserve(serving, limited) for _ in range(2)]
    assert held[0].period_ids == held[1].period_ids != []
    # This worker's shares of the rate and of the concurrent requests are used up.
    with pytest.raises(LimitReached, match="2 requests a minute|2 concurrent requests"):
        reserve(serving, limited)
    with pytest.raises(Unavailable):
        reserve(make_limits(**away, RATE_OUTAGE="refuse"), policy(subject(requests_per_minute=2)))
