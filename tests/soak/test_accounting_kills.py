"""Ten thousand requests of all kinds while workers are killed: each has exactly one row, and it is correct."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.soak.audit import Audit, Times, select_rows, wait_until_settled
from tests.soak.brute_force import check_statistics
from tests.soak.conftest import MakeAudited
from tests.soak.kinds import MIXED, count_by_model
from tests.soak.load import Load, mixed_plans
from tests.support.activity_tables import ActivityTables
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_count, soak_only

# A worker is killed after so many requests, and at least so many seconds after the last kill, so that workers live long
# enough to serve something even on a slow machine.
_KILL_EVERY_REQUESTS, _KILL_EVERY_S = 250, 1.0

_RETRIED = {"plain": 30, "flaky": 40, "stubborn": 20, "hopeless": 10}


@pytest.mark.soak
@soak_only("services/journal/test_orphans.py::test_finished_requests_are_shipped_and_unfinished_ones_are_lost")
def test_every_request_has_one_true_row_although_workers_are_killed(
    audited_gateway: MakeAudited, taught: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    gateway = audited_gateway({"UPSTREAM_IDLE_TIMEOUT": "3"})
    count = 10_000
    with Load(gateway, mixed_plans(MIXED, seed=4, numbers=range(count))) as load:
        kills = _kill_workers(gateway, load)
        load.join()
    integrity = wait_until_settled(gateway, tmp_path, load.visits)
    rows = select_rows(ActivityTables(database_url))
    audit = Audit(load.visits, count_by_model(taught.requests), rows, kills=kills)
    print("killed workers:", audit.check())
    audit.check_ledger(integrity)
    assert len(load.visits) == count and len(kills) > 1
    check_statistics(gateway, rows)


def _kill_workers(gateway: Gateway, load: Load) -> list[Times]:
    """Kills one worker after another until the load is over; returns the times."""
    chance, kills = random.Random(4), list[Times]()
    while not load.is_over():
        time.sleep(0.05)
        rested = not kills or time.monotonic() - kills[-1][1] > _KILL_EVERY_S
        pids = gateway.worker_pids()
        if rested and pids and len(load.visits) > (len(kills) + 1) * _KILL_EVERY_REQUESTS:
            before_s = time.monotonic()
            os.kill(chance.choice(pids), signal.SIGKILL)
            kills.append((before_s, time.monotonic()))
    return kills


@soak_only("fallback/test_failures.py::test_the_targets_are_tried_in_order_until_one_serves_or_refuses_the_request")
@pytest.mark.soak
def test_with_retries_the_upstream_counts_what_the_rows_say_was_attempted(
    audited_gateway: MakeAudited, taught: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    gateway = audited_gateway({"UPSTREAM_RETRIES": "2"})
    with Load(gateway, mixed_plans(_RETRIED, seed=5, numbers=range(soak_count(1_500)))) as load:
        load.join()
    integrity = wait_until_settled(gateway, tmp_path, load.visits)
    rows, counted = select_rows(ActivityTables(database_url)), count_by_model(taught.requests)
    audit = Audit(load.visits, counted, rows)
    print("retries:", audit.check(), "attempts:", counted.total())
    audit.check_ledger(integrity)
    assert counted.total() > len(rows) and integrity["unsent"] == 0
    check_statistics(gateway, rows)
