"""Draws from budgets, and the closing of leases: the sums agree even if statements are late, repeated or lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import msgspec
import pytest
from sqlalchemy import Engine, text

from app.db.leases import (
    KeptAmount,
    LeaseAnswer,
    LeaseDraw,
    PeriodQuery,
    close_leases,
    compute_period_id,
    compute_period_start,
    draw_leases,
    release_leases,
    select_states,
    update_warned,
)
from tests.db.budgets import START, add_budget, charge, check_sums, end_worker, make_draw, read_sums
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database for all tests of this file."""
    return file_engine


@pytest.fixture(autouse=True)
def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE worker, budget, budget_period, budget_lease, budget_charge CASCADE"))


def draw(engine: Engine, worker_id: str, wanted: LeaseDraw) -> LeaseAnswer:
    (answer,) = draw_leases(engine, worker_id, [wanted]).pots
    with engine.connect() as connection:
        check_sums(connection, over=10**9)
    amounts = {name: plain(getattr(answer, name)) for name in ("drawn", "granted", "total")}
    return msgspec.structs.replace(answer, **amounts)


def plain(amount: str) -> str:
    """Returns a decimal number without zeros at its end."""
    return f"{Decimal(amount).normalize():f}"


def release(engine: Engine, worker_id: str) -> list[KeptAmount]:
    with engine.begin() as connection:
        return release_leases(connection, worker_id, free=True).kept


def read_period(engine: Engine, budget: int) -> tuple[int, int, int]:
    """Returns the granted, drawn and charged sums of the budget's only period."""
    with engine.connect() as connection:
        (period,) = [each for each in read_sums(connection) if each["budget_id"] == budget]
    return int(period["granted"]), int(period["drawn"]), int(period["charged"])


def test_a_draw_gives_what_requests_need_and_a_quarter_of_the_rest_beyond(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    assert draw(engine, "a", make_draw(budget, 1, 900, need=10, firm=30)).drawn == "250"
    assert draw(engine, "b", make_draw(budget, 1, 900, need=10, firm=500)).drawn == "500"
    # If the least need fits, as much as fits of the waiting requests is granted.
    assert draw(engine, "c", make_draw(budget, 1, 900, need=10, firm=900)).drawn == "250"
    refused = draw(engine, "d", make_draw(budget, 1, 1, need=1))
    assert (refused.refused, refused.drawn, refused.granted, refused.total) == (True, "0", "1000", "1000")
    assert refused.charged == "0" and refused.recalled_s is not None
    assert (draw(engine, "a", make_draw(budget, 2, 20, used=15)).recalled_s or 0) >= 0
    assert read_period(engine, budget)[0] == 770


def test_totals_are_absolute_so_repeating_and_late_draws_change_nothing(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    assert draw(engine, "a", make_draw(budget, 5, 100)).applied
    for late in (make_draw(budget, 5, 100), make_draw(budget, 4, 900), make_draw(budget, 3, 0)):
        answer = draw(engine, "a", late)
        assert (answer.applied, answer.drawn, answer.version) == (False, "100", 5)
    assert draw(engine, "a", make_draw(budget, 6, 5000)).refused
    # A refused draw counts too: an older one that is carried out later must not change what it left.
    assert draw(engine, "a", make_draw(budget, 7, 0, used=0)).drawn == "0"
    assert not draw(engine, "a", make_draw(budget, 6, 500)).applied
    assert read_period(engine, budget) == (0, 0, 0)


def test_what_is_used_is_granted_even_above_the_amount_and_never_given_back(engine: Engine) -> None:
    budget = add_budget(engine, "100")
    assert draw(engine, "a", make_draw(budget, 1, 100)).drawn == "100"
    assert Decimal(draw(engine, "a", make_draw(budget, 2, 130, used=130)).drawn) == 130
    answer = draw(engine, "b", make_draw(budget, 1, 1))
    assert answer.refused and Decimal(answer.granted) == 130
    # Nothing is needed, so nothing is refused, although more than the amount is granted.
    assert not draw(engine, "a", make_draw(budget, 3, 130, used=130)).refused
    assert Decimal(draw(engine, "a", make_draw(budget, 4, 0, used=120)).drawn) == 120


def test_what_is_not_held_goes_back_before_more_is_given(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    draw(engine, "a", make_draw(budget, 1, 600))
    draw(engine, "b", make_draw(budget, 1, 400))
    refused = draw(engine, "a", make_draw(budget, 2, 700, used=100, held="100"))
    assert (refused.refused, refused.drawn, refused.granted) == (True, "100", "500")
    assert draw(engine, "b", make_draw(budget, 2, 900, held="0")).drawn == "900"


def test_a_raise_counts_at_once_and_an_ended_budget_refuses_nothing(engine: Engine) -> None:
    budget = add_budget(engine, "10", unit="usd")
    assert Decimal(draw(engine, "a", make_draw(budget, 1, 10)).drawn) == 10
    assert draw(engine, "a", make_draw(budget, 2, 12)).refused
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE budget_period SET extra = 2.5 WHERE budget_id = {budget}"))
    raised = draw(engine, "a", make_draw(budget, 3, 12))
    assert Decimal(raised.drawn) == 12 and Decimal(raised.total) == Decimal("12.5")
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE budget SET ended_at = now() WHERE id = {budget}"))
    ended = draw(engine, "a", make_draw(budget, 4, 500))
    assert ended.ended and Decimal(ended.drawn) == 500
    assert draw_leases(engine, "a", [make_draw(987654, 5, 1)]).pots == []


def test_of_a_rolling_window_all_hours_in_it_count(engine: Engine) -> None:
    budget = add_budget(engine, "100", window="rolling:24h")
    hour = timedelta(hours=1)

    def draw_hour(number: int, version: int, want: int) -> LeaseAnswer:
        start = START + number * hour
        since = (start - 24 * hour).isoformat()
        return draw(engine, "a", make_draw(budget, version, want, start=start, since=since, end_at=None))

    first = draw_hour(0, 1, 60)
    assert Decimal(first.drawn) == 60 and first.oldest is None
    assert draw_hour(10, 2, 50).refused and Decimal(draw_hour(10, 3, 40).drawn) == 40
    # An hour counts until 24 hours after its end, because until then some window of 24 hours contains both hours.
    assert draw_hour(24, 4, 1).refused
    assert Decimal(draw_hour(25, 5, 60).drawn) == 60
    # An amount that is given back from a past hour is free for other hours.
    assert Decimal(draw_hour(10, 6, 10).drawn) == 10
    last = draw_hour(25, 7, 90)
    assert Decimal(last.drawn) == 90
    # Hour 0 is out of the window, and the other hours before 10 are empty.
    start, since = [(START + hours * hour).isoformat() for hours in (25, 1)]
    (state,) = select_states(engine, [PeriodQuery(budget=budget, period=last.period, start_at=start, since=since)])
    assert state.oldest == last.oldest == compute_period_id(budget, START + 10 * hour)


def test_draws_that_overlap_behind_a_lock_keep_the_sums(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    draw(engine, "a", make_draw(budget, 1, 10))
    with engine.connect() as blocker, ThreadPoolExecutor(3) as pool:
        blocker.execute(text(f"SELECT FROM budget WHERE id = {budget} FOR UPDATE"))
        # Each is sent before the previous one is answered, as after an abandoned wait.
        overlapping = [
            pool.submit(draw_leases, engine, "a", [make_draw(budget, version, want, used=5)])
            for version, want in ((2, 700), (3, 40), (4, 600))
        ]
        wait_until(lambda: _count_waiting(engine) == 3, what="the draws to wait for the lock")
        blocker.rollback()
        answers = sorted((one.result().pots[0] for one in overlapping), key=lambda answer: answer.version)
    assert read_period(engine, budget)[0] == read_period(engine, budget)[1] == 600
    assert [answer.drawn for answer in answers if answer.applied][-1] == "600"


def _count_waiting(engine: Engine) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%draw_leases%'"
    with engine.connect() as connection:
        count: int = connection.execute(text(query)).scalar_one()
    return count


@pytest.mark.parametrize("keep", [False, True])
def test_a_closed_lease_has_what_was_charged(engine: Engine, keep: bool) -> None:
    budget, untouched = add_budget(engine, "1000"), add_budget(engine, "1000")
    for number, worker in enumerate(("a", "b")):
        draw_leases(engine, worker, [make_draw(budget, 1, 300 + number), make_draw(untouched, 2, 50)])
        charge(engine, budget, worker, 120)
    end_worker(engine, "a")
    first = close_leases(engine, "a", keep=keep)
    assert first.leases == 2 and sum(Decimal(kept.amount) for kept in first.kept) == (230 if keep else 0)
    expected = (601 if keep else 421, 601 if keep else 421, 240)
    assert read_period(engine, budget) == expected
    close_leases(engine, "a", keep=False)
    # The dead worker's draws are carried out only now: of a period that it has drawn from, and of another one.
    other = add_budget(engine, "1000")
    for late in (make_draw(budget, 2, 900), make_draw(other, 2, 900)):
        answers = draw_leases(engine, "a", [late]).pots
        assert [answer.applied for answer in answers] == [False]
    assert read_period(engine, budget) == expected and read_period(engine, other) == (0, 0, 0)
    if keep:
        assert release(engine, "a") == []
        assert read_period(engine, budget) == (421, 421, 240)
    with engine.connect() as connection:
        check_sums(connection)


def test_closing_charges_what_was_served_without_a_lease(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    charge(engine, budget, "a", 70)
    end_worker(engine, "a")
    close_leases(engine, "a", keep=False)
    assert read_period(engine, budget) == (70, 70, 70)
    assert compute_period_start(compute_period_id(budget, START)) == START
    # The first draw of another worker completes the period.
    draw(engine, "b", make_draw(budget, 1, 930))
    assert draw(engine, "b", make_draw(budget, 2, 931)).refused


def test_leases_that_the_operator_released_are_taken_up_again_by_a_worker_that_lives(engine: Engine) -> None:
    budget = add_budget(engine, "1000")
    draw(engine, "a", make_draw(budget, 1, 400))
    charge(engine, budget, "a", 100)
    release(engine, "a")
    assert read_period(engine, budget) == (100, 100, 100)
    answer = draw(engine, "a", make_draw(budget, 2, 500, used=350))
    assert not answer.applied and answer.version > 2
    newer = make_draw(budget, answer.version + 1, 500, used=350)
    assert Decimal(draw(engine, "a", newer).drawn) == 500
    assert read_period(engine, budget) == (500, 500, 100)


def test_draws_and_closings_of_many_workers_do_not_deadlock(engine: Engine) -> None:
    budgets = [add_budget(engine, "100000") for _ in range(6)]
    failures: list[Exception] = []

    def work(worker: str, order: list[int]) -> None:
        try:
            for version in range(1, 40):
                draw_leases(engine, worker, [make_draw(budget, version, version * 10) for budget in order])
            end_worker(engine, worker)
            close_leases(engine, worker, keep=False)
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(f"w{number}", budgets[number:] + budgets[:number])) for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {read_period(engine, budget) for budget in budgets} == {(0, 0, 0)}


def test_a_share_is_warned_of_once(engine: Engine) -> None:
    budget = add_budget(engine, "100")
    draw(engine, "a", make_draw(budget, 1, 1))
    period = compute_period_id(budget, START)
    assert [update_warned(engine, period, percent) for percent in (80, 80, 95, 80)] == [True, False, True, False]
