"""Retention makes partitions ahead and drops old ones; statistics do not change, and a failed step stops no other."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text

from app.config import ROOT, load_settings
from app.db import get_engine
from app.db.fold import fold_deltas
from app.db.partitions import DAYS_AHEAD, PARTITION_LOCK, select_partition_days
from app.db.workers import upsert_closed
from app.runtime import get_component, use_settings
from app.services.reports.records import select_usage_report
from app.services.reports.retention import RetentionJob, select_droppable_days
from app.services.reports.stats import TIME_RANGES, select_stats
from tests.db.rows import NOON, contents, count, insert_rows, make_row
from tests.support.database_clock import shift_clock
from tests.support.postgres import Postgres
from tests.support.soak import soak_count, soak_only
from tests.support.waiting import wait_until

DAY = timedelta(days=1)
TODAY = NOON.date()


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Points this process's settings at the test's database, with a retention of seven days."""
    use_settings(load_settings({"DATABASE_URL": database_url, "RETENTION_DAYS": "7"}))
    yield get_engine()
    use_settings(None)


def _apply() -> bool:
    return get_component(RetentionJob).apply(NOON)


def test_a_round_makes_the_days_ahead_and_drops_those_past_retention(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-back * 86_400) for back in range(12)])
    assert select_droppable_days((NOON - 7 * DAY).date()) == [TODAY - back * DAY for back in range(11, 7, -1)]
    assert _apply()
    with engine.connect() as connection:
        days = select_partition_days(connection)
    assert days == [TODAY + offset * DAY for offset in range(-7, DAYS_AHEAD + 1)]
    assert count(engine, "activity") == 8


def test_a_round_forgets_the_workers_that_ended_more_than_a_week_ago(engine: Engine) -> None:
    for days in (6, 8):
        upsert_closed(engine, f"{days}", "drained")
        with engine.begin() as connection:
            values = {"at": NOON - days * DAY, "worker_id": f"{days}"}
            connection.execute(text("UPDATE worker SET closed_at = :at WHERE worker_id = :worker_id"), values)
    assert _apply()
    (left,) = contents(engine, "worker")["worker"]
    assert left.startswith("(6,")


@pytest.mark.long_form
def test_all_statistics_are_identical_before_and_after_rows_are_dropped(engine: Engine) -> None:
    chance = random.Random(3)
    moments = [-chance.random() * 40 * 86_400 for _ in range(soak_count(1_500))]
    insert_rows(engine, [make_row(after_s=at, key_id=f"key-{int(-at) % 5}", ttft_ms=100 + -at % 900) for at in moments])
    before = _all_numbers()
    fold_deltas(engine, min_age_s=0)
    assert _apply()
    assert 0 < count(engine, "activity") < len(moments) / 3
    assert _all_numbers() == before


def _all_numbers() -> list[Any]:
    windows = [select_stats(gateway, name, NOON) for gateway in ("all", "fireworks") for name in TIME_RANGES]
    return [windows, [select_usage_report(key, TODAY - 60 * DAY, TODAY + DAY) for key in (None, "key-1")]]


def test_an_unavailable_database_fails_the_round_and_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    use_settings(load_settings({"DATABASE_URL": "postgresql://nobody@/nothing?host=/nowhere"}))
    try:
        assert not _apply()
    finally:
        use_settings(None)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert [line["event"] for line in lines] == ["retention_failed"] * 6
    assert all("/nowhere" in line["reason"] for line in lines)


def test_a_step_that_fails_does_not_skip_the_next(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-40 * 86_400), make_row()])
    fold_deltas(engine, min_age_s=0)
    with engine.connect() as other:
        # Another worker holds the lock on partitions.
        other.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": PARTITION_LOCK})
        assert not _apply()
    assert count(engine, "key_presence_minute") == 1
    assert _apply()


def test_a_host_whose_clock_is_ahead_drops_nothing_until_it_is_right(
    database_url: str, engine: Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    shift_clock(database_url, "-100 days")
    hundred_days_ago = datetime.now(UTC) - 100 * DAY
    insert_rows(engine, [make_row(started_at=hundred_days_ago - back * DAY) for back in range(3)])
    engine.dispose()  # Only new connections have the shifted clock.
    fold_deltas(engine, min_age_s=0)
    before = contents(engine, "activity", "outcome_usage", "model_usage")
    job = get_component(RetentionJob)
    assert not job.run_round()
    assert contents(engine, "activity", "outcome_usage", "model_usage") == before
    with engine.connect() as connection:
        assert select_partition_days(connection)[-1] == hundred_days_ago.date() + DAYS_AHEAD * DAY
    events = [json.loads(line)["event"] for line in capfd.readouterr().err.splitlines()]
    assert events == ["retention_skipped", "partitions_made"]

    shift_clock(database_url, "-4 minutes")
    engine.dispose()
    assert job.run_round()
    assert count(engine, "activity") == 0


STARTED_IN_A_WORKER = """
from gevent import monkey; monkey.patch_all()
from psycogreen.gevent import patch_psycopg; patch_psycopg()
import sys, time
from app.services.reports.retention import start_retention
start_retention(); start_retention()
time.sleep(float(sys.argv[1]))
"""


@soak_only("services/reports/test_retention.py::test_all_statistics_are_identical_before_and_after_rows_are_dropped")
def test_a_worker_starts_with_a_round_in_the_background(database_url: str, postgres: Postgres) -> None:
    environment = {"DATABASE_URL": database_url, "PATH": "/usr/bin"}
    command = [sys.executable, "-W", "error", "-c", STARTED_IN_A_WORKER, "30"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as worker:
        try:
            name = database_url.rpartition("/")[2].partition("?")[0]
            today = datetime.now(UTC).date()
            sql = f"SELECT 1 FROM pg_class WHERE relname = 'activity_p{today + DAYS_AHEAD * DAY:%Y%m%d}'"
            wait_until(lambda: postgres.execute(sql, name), what="the partition of the last day ahead")
        finally:
            worker.kill()
        assert worker.stderr is not None
        events = [json.loads(line)["event"] for line in worker.stderr.read().splitlines()]
    assert events == ["partitions_made"] or events == []
