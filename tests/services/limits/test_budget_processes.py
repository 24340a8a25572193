"""Several processes spend one budget: never above it, to within one request of it, whatever dies or freezes."""

from __future__ import annotations

import random
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.activity_tables import adopt_all, wait_until_shipped
from tests.support.budget_sums import BudgetSums
from tests.support.postgres import Postgres
from tests.support.recording_process import RecordingProcess
from tests.support.soak import FULL, soak_count, soak_only
from tests.support.waiting import wait_until

PROCESSES = 8 if FULL else 3


def start(
    stack: ExitStack, place: Path, url: str, subjects: list[dict[str, Any]], count: int = PROCESSES, **settings: str
) -> list[RecordingProcess]:
    """Starts processes with these limits, all with their journals in `place`."""
    place.mkdir(exist_ok=True)
    processes = [
        stack.enter_context(RecordingProcess(place, url, settings, name=str(number))) for number in range(count)
    ]
    for process in processes:
        process.ask("start")
        process.ask("limit", subjects)
    return processes


def ask_all(processes: list[RecordingProcess], command: str, *arguments: Any) -> list[Any]:
    """Sends a command to all processes at once, and returns their results."""
    for process in processes:
        process.send(command, *arguments)
    return [process.receive() for process in processes]


def stop_all(processes: list[RecordingProcess]) -> None:
    """Stops the processes like workers: first the draws, then the journal."""
    ask_all(processes, "stop_limits")
    assert all(ask_all(processes, "stop", 20))


@pytest.mark.soak
def test_a_budget_is_used_up_and_never_exceeded(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    limit = 3_000_000 if FULL else 100_000
    month, day = sums.add_budget(str(limit)), sums.add_budget(str(limit * 2), window="day")
    subjects = [{"id": "alice", "kind": "holder", "budgets": [month, day]}]
    with ExitStack() as stack:
        processes = start(stack, tmp_path, database_url, subjects)
        with sums.watching():
            results = ask_all(processes, "spend", 8 if FULL else 2, 16, 1_000, 200, 600, 0.01)
        stop_all(processes)
    tight, loose = sums.read()
    sums.check_charges()
    # Nothing is in flight, and all unused amounts were returned.
    assert tight["granted"] == tight["charged"] and loose["granted"] == loose["charged"]
    assert limit - 1_000 < tight["charged"] <= limit
    refused = {code for result in results for code in result["refused"]}
    assert refused <= {"insufficient_quota", "budget_reserved"} and "insufficient_quota" in refused
    assert len(sums.select("SELECT FROM budget_lease WHERE NOT closed")) == 0


@soak_only("services/limits/test_budget_processes.py::test_a_budget_is_used_up_and_never_exceeded")
def test_with_room_for_ten_requests_eleven_are_never_in_flight(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    subjects = [{"id": "alice", "kind": "holder", "budgets": [sums.add_budget("10000")]}]
    with ExitStack() as stack:
        processes = start(stack, tmp_path, database_url, subjects)
        with sums.watching():
            # The requests cost nearly nothing, so the budget is never used up.
            results = ask_all(processes, "spend", 4 if FULL else 1, 16, 1_000, 0, 1, 0.02)
        assert sum(result["longest"] for result in results) >= 10
        for result in results:
            assert result["longest"] <= 10 and result["refused"].keys() <= {"budget_reserved"}
        stop_all(processes)
    (period,) = sums.read()
    sums.check_charges()
    assert period["granted"] == period["charged"] < 10_000


def test_requests_one_after_the_other_are_not_refused_for_what_others_keep(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    subjects = [{"id": "alice", "kind": "holder", "budgets": [sums.add_budget("3000")]}]
    with ExitStack() as stack:
        processes = start(stack, tmp_path, database_url, subjects)
        refused = [
            random.choice(processes).ask("spend", 0.01, 1, 1_000, 0, 1, 0.001)["refused"]
            for _ in range(soak_count(400))
        ]
    assert [each for each in refused if each] == []


@soak_only("services/limits/test_closing.py::test_where_records_may_be_missing_the_rest_stays_granted")
@pytest.mark.soak
def test_the_money_of_killed_workers_comes_back(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    limit = soak_count(10_000_000)
    subjects = [{"id": "alice", "kind": "holder", "budgets": [sums.add_budget(str(limit))]}]
    with ExitStack() as stack:
        processes = start(stack, tmp_path, database_url, subjects, max(PROCESSES, 4))
        with sums.watching():
            for process in processes:
                process.ask("spend_for_ever", 16, 1_000, 200, 600, 0.05)
            for victim in processes[: len(processes) // 2]:
                time.sleep(random.uniform(0.1, 0.4))
                victim.kill()
            # The others adopt the journals, and spend the amounts that come back.
            wait_until(
                lambda: (
                    sums.select("SELECT coalesce(sum(exact + ceiling), 0) FROM budget_charge")[0][0] > limit - 1_000
                ),
                what="the budget to be used up",
            )
        for process in processes[len(processes) // 2 :]:
            process.kill()
        adopt_all(tmp_path, database_url)
    (period,) = sums.read()
    sums.check_charges()
    assert limit - 1_000 < period["charged"] == period["granted"] <= limit
    lost = sums.select("SELECT count(*) FROM activity WHERE outcome = 'lost'")[0][0]
    assert lost == sums.select("SELECT sum(ceiling) / 1000 FROM budget_charge")[0][0] > 0
    assert len(sums.select("SELECT FROM budget_lease WHERE NOT closed OR kept")) == 0


@soak_only("services/limits/test_budget_processes.py::test_a_budget_is_used_up_and_never_exceeded")
def test_many_budgets_are_drawn_from_in_several_calls(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    subjects = [
        {
            "id": name,
            "kind": "holder",
            "budgets": [
                sums.add_budget("300000", unit=unit, window=window, subject=name)
                for unit in ("tokens", "requests")
                for window in ("day", "week", "month", "total", "rolling:24h", "rolling:30d")
            ],
        }
        for name in ("a", "b", "c", "d", "e")
    ]
    with ExitStack() as stack:
        processes = start(stack, tmp_path, database_url, subjects, 2)
        with sums.watching():
            results = ask_all(processes, "spend", 1.5, 8, 1_000, 200, 600, 0.005)
        stop_all(processes)
    sums.check_charges()
    periods = sums.read()
    assert len(periods) >= 60 and all(period["granted"] == period["charged"] for period in periods)
    assert all(result["admitted"] for result in results)


@soak_only("services/limits/test_budget_processes.py::test_a_budget_is_used_up_and_never_exceeded")
def test_a_frozen_database_refuses_nobody_who_has_a_lease(tmp_path: Path, victim: Postgres, victim_url: str) -> None:
    sums = BudgetSums(victim_url)
    plenty, little = sums.add_budget("100000000"), sums.add_budget("1000", subject="bob")
    with ExitStack() as stack:
        (rich,) = start(stack, tmp_path / "a", victim_url, [{"id": "alice", "kind": "holder", "budgets": [plenty]}], 1)
        poor_place = tmp_path / "b"
        poor_limits = [{"id": "bob", "kind": "holder", "budgets": [little], "rpm": 60_000}]
        (poor,) = start(stack, poor_place, victim_url, poor_limits, 1, BUDGET_OUTAGE="refuse")
        (served,) = start(stack, tmp_path / "c", victim_url, poor_limits, 1, BUDGET_OUTAGE="serve")
        before = rich.ask("spend", 2.5, 8, 1_000, 200, 600, 0.01)
        victim.pause()
        try:
            for process in (rich, poor, served):
                process.send("spend", 3, 4, 1_000, 200, 600, 0.02)
            during, refused, exceeded = rich.receive(), poor.receive(), served.receive()
        finally:
            victim.resume()
        # A wait for the database would last for the 3 s of the freeze.
        assert during["refused"] == {} and statistics.quantiles(during["waits_s"], n=100)[98] < 0.5
        assert before["refused"] == {} and len(during["admitted"]) > 100
        assert refused["refused"].keys() == {"budget_unavailable"} and refused["admitted"] == {}
        assert exceeded["admitted"] and exceeded["refused"] == {}
        for process in (rich, poor, served):
            wait_until_shipped(process)
        stop_all([rich, poor, served])
    sums.check_charges()
    first, second = sums.read()
    assert first["granted"] == first["charged"] <= first["total"]
    # Requests served without a lease are charged above the amount.
    assert second["granted"] == second["charged"] > second["total"]
