"""Records are shipped to PostgreSQL exactly once, although the server is stopped, killed or frozen meanwhile."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.activity_tables import (
    ActivityTables,
    adopt_all,
    check_against_provider,
    journal_directories,
    wait_until_shipped,
)
from tests.support.postgres import Postgres
from tests.support.recording_process import RecordingProcess
from tests.support.soak import FULL, soak_count, soak_only
from tests.support.waiting import wait_until

# Just enough to show the effect of a frozen server; each stream records a hundred requests a second.
_FEW_STREAMS = 10 if FULL else 1


@pytest.fixture
def victim_url(victim: Postgres) -> Iterator[str]:
    """The address of a database for one test on the server that may be stopped, killed and frozen."""
    url = victim.create_migrated_database()
    yield url
    victim.resume()
    if victim.pid is None:
        victim.start()
    victim.drop_database(url)


def test_recorded_requests_are_in_the_database_with_the_same_outcome(tmp_path: Path, database_url: str) -> None:
    tables = ActivityTables(database_url)
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record", 1000)
        held = process.ask("hold", 5)
        wait_until_shipped(process)
        outcomes = tables.outcomes()
        assert set(outcomes) == process.counted() - set(held) | process.refused()
        assert {one for one, outcome in outcomes.items() if outcome == "rejected"} == process.refused()
        process.ask("release")
        wait_until_shipped(process)
        assert {tables.outcomes()[one] for one in held} == {"ok"}
        status = process.ask("status")
        assert status["writable"] and status["last_error"] is None and status["shipped_rows"] == 1005


def test_a_fold_that_fails_stops_no_shipping_and_the_next_one_makes_up_for_it(
    tmp_path: Path, database_url: str
) -> None:
    tables = ActivityTables(database_url)
    tables.execute("ALTER TABLE latency_usage RENAME TO away")
    with RecordingProcess(tmp_path, database_url) as process:
        for shipped in (300, 600):
            process.ask("record", 300)
            wait_until_shipped(process)
            wait_until(lambda: "sums_fold_failed" in process.log_file.read_text(), what="the failure in the log")
            assert len(tables.outcomes()) == shipped and process.ask("status")["last_error"] is None
        assert tables.select("SELECT count(*) FROM outcome_usage")[0][0] == 0
        assert sum(tables.integrity()[1].values()) == 600
        tables.execute("ALTER TABLE away RENAME TO latency_usage")
        assert process.ask("stop", 20) is True
    assert process.log_file.read_text().count("sums_fold_failed") == 1
    assert tables.select("SELECT count(*) FROM rollup_delta")[0][0] == 0
    folded = "SELECT CAST(sum(requests) AS int) FROM {table} WHERE level = 'day'"
    for table in ("outcome_usage", "model_usage"):
        assert tables.select(folded.format(table=table) + " AND subject = ''")[0][0] == 600
    assert tables.select(folded.format(table="usage_rollup"))[0][0] == 600


def test_a_stop_ships_everything_and_leaves_no_files(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record_quickly", 3000)
        assert process.ask("stop", 20) is True
        assert journal_directories(tmp_path) == []
    assert len(ActivityTables(database_url).outcomes()) == 3000
    ledger = ActivityTables(database_url).check_balance()
    assert (ledger["started"], ledger["in_flight"], ledger["unshipped"]) == (3000, 0, 0)


def test_requests_in_flight_at_a_stop_are_recorded_by_the_next_worker(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record", 10)
        held = process.ask("hold", 2)
        assert process.ask("stop", 20) is False
    adopt_all(tmp_path, database_url)
    outcomes = ActivityTables(database_url).outcomes()
    assert {one for one, outcome in outcomes.items() if outcome == "lost"} == set(held)


def test_texts_that_postgresql_refuses_do_not_cost_the_row(tmp_path: Path, database_url: str) -> None:
    with RecordingProcess(tmp_path, database_url) as process:
        request_id = process.ask("record_nul")
        wait_until_shipped(process)
        assert ActivityTables(database_url).outcomes() == {request_id: "ok"}


def test_a_row_with_values_that_the_database_refuses_is_kept_without_them(tmp_path: Path, database_url: str) -> None:
    tables = ActivityTables(database_url)
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record_quickly", 300)
        repaired = {process.ask("record_unacceptable") for _ in range(3)}
        process.ask("record_quickly", 300)
        wait_until_shipped(process)
        assert set(tables.outcomes()) == process.counted() | process.refused()
        assert process.ask("status")["rejected_rows"] == 0
        wait_until(lambda: process.ask("integrity")["balanced"])
        metrics = process.ask("metrics")
        assert (metrics["gateway_rejected_rows_total"], metrics["gateway_records_balanced"]) == (0, 1)
        lines = [json.loads(line) for line in process.log_file.read_text().splitlines()]
    columns = "CAST(request_id AS text), outcome, prompt_tokens, completion_tokens, cost_usd, cost_kind, repaired"
    rows = tables.select(f"SELECT {columns} FROM activity WHERE repaired IS NOT NULL")
    assert {row[0] for row in rows} == repaired
    fields = "outcome, completion_tokens, cost_usd, cost_kind"
    assert {tuple(row[1:]) for row in rows} == {("lost", 10, None, None, "unknown", fields)}
    logged = [line for line in lines if line["event"] == "activity_row_repaired"]
    assert {json.loads(line["row"])["request_id"] for line in logged} == repaired
    assert not (tmp_path / "journal/rejected.jsonl").exists()


def test_a_row_that_no_repair_makes_acceptable_is_kept_aside_and_unbalances_the_ledger(
    tmp_path: Path, database_url: str
) -> None:
    ActivityTables(database_url).execute("ALTER TABLE activity ADD CONSTRAINT no_299 CHECK (status <> 299)")
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal/rejected.jsonl").touch(0o644)
    with RecordingProcess(tmp_path, database_url) as process:
        process.ask("record_quickly", 300)
        refused = [process.ask("record_status", 299) for _ in range(3)]
        process.ask("record_quickly", 300)
        wait_until_shipped(process)
        wait_until(lambda: ActivityTables(database_url).integrity()[0]["rejected"] == 3)
        assert set(ActivityTables(database_url).outcomes()) == (process.counted() | process.refused()) - set(refused)
        assert process.ask("status")["rejected_rows"] == 3
        assert process.ask("integrity")["balanced"] is False
        metrics = process.ask("metrics")
        assert (metrics["gateway_rejected_rows_total"], metrics["gateway_records_balanced"]) == (3, 0)
        assert metrics["gateway_missing_workers"] == 0
        assert "activity_row_rejected" in process.log_file.read_text()
    assert stat.S_IMODE((tmp_path / "journal/rejected.jsonl").stat().st_mode) == 0o600
    kept = [json.loads(line) for line in (tmp_path / "journal/rejected.jsonl").read_text().splitlines()]
    assert [json.loads(one["row"])["request_id"] for one in kept] == refused
    ActivityTables(database_url).check_balance()


@pytest.mark.soak
def test_the_ledger_balances_at_every_moment_under_load(tmp_path: Path, database_url: str) -> None:
    streams = 20 if FULL else 5
    tables = ActivityTables(database_url)
    with (
        RecordingProcess(tmp_path, database_url) as first,
        RecordingProcess(tmp_path, database_url, name="1") as second,
    ):
        first.ask("flood", streams)
        second.ask("flood", streams)
        in_flight = [tables.check_balance()["in_flight"] for _ in range(soak_count(600))]
        assert max(in_flight) <= 2 * streams
        integrity = first.ask("integrity")
        assert integrity["balanced"] is True
        assert integrity["started"] > 0


@soak_only("services/journal/test_shipper.py::test_a_frozen_server_neither_stops_the_process_nor_costs_a_row")
@pytest.mark.soak
def test_while_the_database_is_unavailable_memory_does_not_grow_and_no_row_is_lost(
    tmp_path: Path, victim: Postgres, victim_url: str
) -> None:
    with RecordingProcess(tmp_path, victim_url) as process:
        process.ask("record", 2000)
        wait_until_shipped(process)
        victim.stop()
        process.ask("record", 2000)
        before_bytes = process.ask("memory_bytes")
        count = soak_count(100_000)
        process.ask("record", count)
        grown_bytes = process.ask("memory_bytes") - before_bytes
        status = wait_until(lambda: (now := process.ask("status"))["last_error"] and now)
        assert status["writable"] and status["backlog_rows"] == 2000 + count
        assert status["backlog_bytes"] > count * 500 and status["oldest_age_s"] > 0
        # At least 10,000 requests are recorded here, whose rows have at least 7 MB.
        assert grown_bytes < 4_000_000
        victim.start()
        wait_until_shipped(process, 120)
        assert set(ActivityTables(victim_url).outcomes()) == process.counted() | process.refused()
    ActivityTables(victim_url).check_balance()


@soak_only("services/journal/test_shipper.py::test_a_frozen_server_neither_stops_the_process_nor_costs_a_row")
@pytest.mark.soak
def test_a_server_killed_again_and_again_under_load_costs_no_row(
    tmp_path: Path, victim: Postgres, victim_url: str
) -> None:
    with RecordingProcess(tmp_path, victim_url) as process:
        process.ask("flood", 30)
        for _ in range(soak_count(30)):
            time.sleep(0.7)
            victim.kill()
            time.sleep(0.3)
            victim.start()
        assert process.ask("stop", 60) is False
    adopt_all(tmp_path, victim_url)
    check_against_provider(ActivityTables(victim_url), [process], streams=30)


@pytest.mark.soak
def test_a_frozen_server_neither_stops_the_process_nor_costs_a_row(
    tmp_path: Path, victim: Postgres, victim_url: str
) -> None:
    with RecordingProcess(tmp_path, victim_url) as process:
        process.ask("flood", _FEW_STREAMS)
        wait_until(lambda: len(ActivityTables(victim_url).outcomes()) > 100)
        victim.pause()
        # Longer than the shipper's limit for one statement, so that statements of several attempts pile up.
        stalled_s = process.ask("longest_stall_s", max(16, soak_count(70)))
        status = process.ask("status")
        victim.resume()
        assert status["last_error"] is not None and "did not answer" in status["last_error"]
        # A process blocked by the server would stall for the whole freeze.
        assert stalled_s < 5
        _wait_for_low_backlog(process)
    adopt_all(tmp_path, victim_url)
    check_against_provider(ActivityTables(victim_url), [process], streams=_FEW_STREAMS)


def _wait_for_low_backlog(process: RecordingProcess) -> None:
    # Requests keep coming, so the backlog is never empty for long.
    wait_until(lambda: process.ask("status")["backlog_rows"] < 5_000, 60, "the backlog to be shipped")
