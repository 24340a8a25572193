"""Several processes share rates and numbers of concurrent requests, over a proxy to the database that loses draws."""

from __future__ import annotations

import time
from bisect import bisect_left
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.services.limits.test_budget_processes import PROCESSES, ask_all, start, stop_all
from tests.support.budget_sums import BudgetSums
from tests.support.disturbing_proxy import FATES, running_disturbing_proxy
from tests.support.soak import FULL, soak_only

MANY = soak_only("services/limits/test_rate_processes.py::test_no_more_requests_are_served_at_once_than_the_limit")


def collect(results: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Returns the sorted start times and the sorted end times of all admitted requests."""
    spans = [span for result in results for span in result["admitted"].values()]
    return sorted(span[0] for span in spans), sorted(span[1] for span in spans)


@soak_only("services/limits/test_rate_processes.py::test_no_more_requests_are_served_at_once_than_the_limit")
@pytest.mark.soak
def test_no_minute_has_more_requests_than_the_rate(tmp_path: Path, database_url: str) -> None:
    rate = 2_000
    with ExitStack() as stack:
        limits = [{"id": "alice", "kind": "holder", "rpm": rate, "tpm": rate * 1_000}]
        processes = start(stack, tmp_path, database_url, limits, 4 if FULL else 3)
        # The processes offer ten times as much.
        results = ask_all(processes, "spend", 130 if FULL else 2.5, 32, 500, 0, 500, 0.005)
        stop_all(processes)
    began, _ = collect(results)
    most = max(bisect_left(began, start_s + 60) - number for number, start_s in enumerate(began))
    assert most <= rate
    minutes = max(1, int((began[-1] - began[0]) // 60))
    assert len(began) >= 0.95 * rate * minutes
    assert {code for result in results for code in result["refused"]} == {"rate_limit_exceeded"}


def test_tokens_above_the_rate_are_paid_in_the_next_minute(tmp_path: Path, database_url: str) -> None:
    with ExitStack() as stack:
        limits = [{"id": "alice", "kind": "holder", "tpm": 10_000}]
        (process,) = start(stack, tmp_path, database_url, limits, 1)
        # Each request asks for 100 and uses 1,000, so after the first draws there is only debt.
        result = process.ask("spend", 2, 1, 100, 1_000, 1_000, 0.01)
        assert 10 <= len(result["admitted"]) <= 20 and set(result["refused"]) == {"rate_limit_exceeded"}
        # A request for more than the rate could begin, but not now.
        assert process.ask("spend", 0.05, 1, 1_000_000, 1, 1, 0.01)["admitted"] == {}


@pytest.mark.soak
@pytest.mark.parametrize("limit", [4, pytest.param(20, marks=MANY)])
def test_no_more_requests_are_served_at_once_than_the_limit(tmp_path: Path, database_url: str, limit: int) -> None:
    with ExitStack() as stack:
        limits = [{"id": "alice", "kind": "holder", "concurrent": limit}]
        processes = start(stack, tmp_path, database_url, limits)
        results = ask_all(processes, "spend", 20 if FULL else 1, 8, 500, 0, 500, 0.02)
        stop_all(processes)
        sums = BudgetSums(database_url)
        assert sums.select("SELECT coalesce(sum(held), 0) FROM slot_lease")[0][0] == 0
    began, ended = collect(results)
    longest = max(number + 1 - bisect_left(ended, at) for number, at in enumerate(began))
    assert longest <= limit
    busy_s = sum(ended) - sum(began)
    print(f"limit {limit}: {busy_s / (ended[-1] - began[0]):.1f} in use on average, {len(began)} requests")
    assert longest == limit and {code for result in results for code in result["refused"]} <= {"rate_limit_exceeded"}


@soak_only("services/limits/test_rate_processes.py::test_no_more_requests_are_served_at_once_than_the_limit")
@pytest.mark.soak
def test_draws_that_are_late_or_lost_leak_nothing(tmp_path: Path, database_url: str) -> None:
    sums = BudgetSums(database_url)
    limit = 5_000_000 if FULL else 400_000
    month, hours = sums.add_budget(str(limit)), sums.add_budget(str(limit * 2), window="rolling:24h")
    limits = [{"id": "alice", "kind": "holder", "budgets": [month, hours], "rpm": 1_000_000}]
    functions = (b"draw_leases_v1", b"draw_permits_v1")
    with ExitStack() as stack, running_disturbing_proxy(database_url, *functions, every=8) as proxy:
        processes = start(stack, tmp_path, proxy.url, limits, PROCESSES, RATE_OUTAGE="refuse")
        with sums.watching():
            results = ask_all(processes, "spend", 60 if FULL else 5, 8, 1_000, 200, 600, 0.01)
            stop_all(processes)
            proxy.wait_until_calm()
            time.sleep(0.3)
    print(proxy.counts, sum(len(result["admitted"]) for result in results))
    assert min(proxy.counts[fate] for fate in FATES) > 0
    sums.check_charges()
    for period in sums.read():
        assert 0 < period["granted"] == period["charged"] <= period["total"]
    allowed = {"budget_unavailable", "insufficient_quota", "budget_reserved", "rate_limit_exceeded"}
    assert {code for result in results for code in result["refused"]} <= allowed
