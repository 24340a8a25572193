"""A gateway that is told to stop under load ships all rows that it can, and the next start ships the rest."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.soak.audit import Audit, Times, select_rows, wait_until_settled
from tests.soak.brute_force import check_statistics
from tests.soak.conftest import MakeAudited
from tests.soak.kinds import MIXED, count_by_model
from tests.soak.load import Load, Visit, mixed_plans
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.gateway import Gateway
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import soak_count, soak_only
from tests.support.waiting import wait_until

# Endless streams outlive the drain, and the rest of the grace time is for shipping.
_SETTINGS = {"DRAIN_TIMEOUT": "1.5", "GRACEFUL_TIMEOUT": "6"}
_WEIGHTS = {**MIXED, "silent": 0, "endless": 6}

# The age at which a row must have been shipped: a round of the shipper takes half a second.
_SHIPPED_WITHIN_S = 1.0


@soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")
@pytest.mark.soak
def test_a_stop_under_load_ships_what_it_can_and_the_next_start_brings_the_rest(
    audited_gateway: MakeAudited, taught: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    plans, visits, stops = mixed_plans(_WEIGHTS, seed=7), list[Visit](), list[Times]()
    for _ in range(soak_count(10)):
        gateway = audited_gateway(_SETTINGS)
        with Load(gateway, plans) as load:
            time.sleep(1.5)
            stops.append(_stop(gateway))
        visits += load.visits
        _check_shipped(load.visits, stops[-1][1], ActivityTables(database_url))
    gateway = audited_gateway(workers=1)
    integrity = wait_until_settled(gateway, tmp_path, visits, workers=1)
    rows = select_rows(ActivityTables(database_url))
    audit = Audit(visits, count_by_model(taught.requests), rows, stops=stops)
    figures = audit.check()
    print("stops:", len(stops), figures)
    assert figures["gateway_shutdown"] > 0
    audit.check_ledger(integrity)
    check_statistics(gateway, rows)


@pytest.mark.soak
@soak_only("routes/test_database_away.py::test_an_answer_that_ends_while_the_database_is_stopped_is_kept_later")
def test_a_stop_while_the_database_is_frozen_ends_in_time_and_costs_no_row(
    audited_gateway: MakeAudited, taught: ScriptedUpstream, victim: Postgres, victim_url: str, tmp_path: Path
) -> None:
    gateway = audited_gateway({**_SETTINGS, "DATABASE_URL": victim_url})
    with Load(gateway, mixed_plans(_WEIGHTS, seed=8)) as load:
        wait_until(lambda: len(journal_directories(tmp_path)) == 2, what="both workers to record requests")
        time.sleep(1)
        victim.pause()
        time.sleep(1)
        stops = [_stop(gateway)]
    victim.resume()
    left = len(journal_directories(tmp_path))
    gateway = audited_gateway({"DATABASE_URL": victim_url}, workers=1)
    integrity = wait_until_settled(gateway, tmp_path, load.visits, workers=1)
    rows = select_rows(ActivityTables(victim_url))
    audit = Audit(load.visits, count_by_model(taught.requests), rows, stops=stops)
    print("stopped without a database:", audit.check())
    assert left == 2, "both workers had rows that they could not ship"
    audit.check_ledger(integrity)
    check_statistics(gateway, rows)


def _stop(gateway: Gateway) -> Times:
    """Stops it and returns the times of start and end; fails if gunicorn's own timeout ended it."""
    began_s = time.monotonic()
    assert gateway.stop() == 0
    assert "SIGKILL" not in gateway.log(), gateway.log()[-3000:]
    return began_s, time.monotonic()


def _check_shipped(visits: list[Visit], gone_s: float, tables: ActivityTables) -> None:
    """Fails if a request that ended in good time before the gateway was gone has no row yet."""
    shipped = {str(row["request_id"]) for row in select_rows(tables)}
    due = {visit.request_id for visit in visits if visit.complete and visit.ended_s < gone_s - _SHIPPED_WITHIN_S}
    assert due <= shipped, f"{len(due - shipped)} of {len(due)} rows were not shipped"
