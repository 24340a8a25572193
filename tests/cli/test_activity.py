"""`bin/gateway activity` exports and purges records and shows statistics, and its errors are one sentence."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

from app.cli.activity import activity_group
from app.config import ROOT, load_settings
from app.db import get_engine
from app.runtime import use_settings
from app.services.journal import make_request_id
from app.services.reports import select_stats
from tests.db.rows import Row, count, insert_keys, insert_rows, make_row
from tests.support.database_clock import shift_clock
from tests.support.keys import revoke_key
from tests.support.soak import soak_only

DAY_S = 86_400
TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Points this process's settings at the test's database, with a retention of three days."""
    use_settings(load_settings({"DATABASE_URL": database_url, "RETENTION_DAYS": "3"}))
    yield get_engine()
    use_settings(None)


@pytest.fixture
def rows(engine: Engine) -> list[Row]:
    """Inserts ten requests, one at the start of each of the last ten days, and returns them newest first."""
    rows = [
        make_row(started_at=TODAY - timedelta(days=back), key_id=f"key-{back % 2}", model_served=f"model {back % 3}")
        for back in range(10)
    ]
    insert_rows(engine, rows)
    insert_keys(engine, "key-0", "key-1")
    return rows


def test_an_export_to_a_file_has_all_records_and_leaves_no_other_file(rows: list[Row], tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    result = _run("export", "--output", str(file))
    assert result.exit_code == 0 and result.stderr == "10 records exported.\n"
    assert _ids(file.read_text()) == [str(row["request_id"]) for row in rows]
    assert list(tmp_path.iterdir()) == [file]


def test_an_export_to_standard_output_is_filtered(rows: list[Row]) -> None:
    start, end = (f"{TODAY - timedelta(days=back):%Y-%m-%d}" for back in (5, 0))
    of_key = ["--key", "key-1", "--gateway", "fireworks", "--outcome", "ok", "--outcome", "lost", "--status", "2xx"]
    result = _run("export", "--from", start, "--to", end, *of_key, "--stream", "--min-duration-ms", "1500")
    assert _ids(result.stdout) == [str(rows[back]["request_id"]) for back in (1, 3, 5)]
    assert _ids(_run("export", "--model", "model 2").stdout) == [str(rows[back]["request_id"]) for back in (2, 5, 8)]
    assert _ids(_run("export", "--no-stream").stdout) == _ids(_run("export", "--status", "500").stdout) == []
    assert "such as 429" in _run("export", "--status", "6xx").stderr


def test_an_export_that_cannot_be_written_is_refused(rows: list[Row], tmp_path: Path) -> None:
    result = _run("export", "--output", str(tmp_path / "nowhere" / "all.csv"))
    assert result.exit_code == 1 and "cannot be written: No such file" in result.stderr


@soak_only("cli/test_activity.py::test_an_export_to_standard_output_is_filtered")
def test_a_reader_that_stops_reading_ends_an_export_quietly(rows: list[Row], database_url: str) -> None:
    command = f"{sys.executable} -m flask --app wsgi activity export | head -1"
    environment = {**os.environ, "DATABASE_URL": database_url}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("request_id,started_at,key_id,")
    assert "Traceback" not in done.stderr


def test_a_purge_drops_what_retention_does_not_keep(rows: list[Row], engine: Engine) -> None:
    before = select_stats("all", "all", TODAY)
    result = _run("purge", "--yes")
    assert result.exit_code == 0
    assert f"6 days dropped; records from {TODAY - timedelta(days=3):%Y-%m-%d} on are kept." in result.stdout
    assert count(engine, "activity") == 4
    assert select_stats("all", "all", TODAY) == before
    assert "0 days dropped" in _run("purge", "--yes").stdout


def test_a_purge_before_a_day_keeps_that_day(rows: list[Row], engine: Engine) -> None:
    assert _run("purge", "--before", f"{TODAY - timedelta(days=8):%Y-%m-%d}", "--yes").exit_code == 0
    assert count(engine, "activity") == 9


def test_a_purge_asks_first(rows: list[Row], engine: Engine) -> None:
    result = _run("purge", "--before", f"{TODAY:%Y-%m-%d}")
    assert result.exit_code == 1 and "9 days of records" in result.output
    assert count(engine, "activity") == 10


def test_the_current_day_cannot_be_dropped(rows: list[Row], engine: Engine) -> None:
    result = _run("purge", "--before", f"{TODAY + timedelta(days=1):%Y-%m-%d}", "--yes")
    assert result.exit_code == 1 and "current day" in result.stderr
    assert count(engine, "activity") == 10


def test_a_purge_by_a_clock_that_may_be_wrong_requires_a_day(
    rows: list[Row], engine: Engine, database_url: str
) -> None:
    shift_clock(database_url, "100 days")
    engine.dispose()
    result = _run("purge", "--yes")
    assert result.exit_code == 1 and "Set the one that is wrong" in result.stderr and "--before" in result.stderr
    assert count(engine, "activity") == 10
    for tomorrow in (1, 50):
        assert _run("purge", "--before", f"{TODAY + timedelta(days=tomorrow):%Y-%m-%d}", "--yes").exit_code == 1
    assert _run("purge", "--before", f"{TODAY - timedelta(days=8):%Y-%m-%d}", "--yes").exit_code == 0
    assert count(engine, "activity") == 9


def test_a_request_is_shown_with_its_attempts_and_its_error(engine: Engine) -> None:
    row = make_row(
        request_id=make_request_id(),
        started_at=datetime.now(UTC),
        client_request_id="mine-7",
        error_message="It said \x1b[31m no.",
        duration_ms=537.5794979918282,
        tokens_per_second=49.99999999999999,
        attempts=[
            {
                "provider": "chutes",
                "model": "a/\x1bM",
                "status": 503,
                "error": "upstream_error",
                "ms": 12.5,
                "tokens": 7,
            },
            {"provider": "fireworks", "model": "m", "status": 200, "error": None, "ms": 3.0, "cost_usd": None},
            {"status": 429, "error": "too_many_refusals", "requests": 9},
        ],
    )
    insert_rows(engine, [row])
    for given in (row["request_id"], "mine-7"):
        lines = _run("show", given).stdout.splitlines()
        assert f"{'request_id':20} {row['request_id']}" in lines
        assert f"{'error_message':20} It said ?[31m no." in lines
        assert f"{'duration_ms':20} 537.58" in lines and f"{'tokens_per_second':20} 50" in lines
        first = "provider chutes, model a/?M, status 503, error upstream_error, ms 12.5, tokens 7"
        assert f"{'attempts':20} {first}" in lines
        assert f"{'':20} provider fireworks, model m, status 200, ms 3" in lines
        assert f"{'':20} status 429, error too_many_refusals, requests 9" in lines
        assert not any(line.startswith("error_code") for line in lines)
    result = _run("show", "yours-7")
    assert result.exit_code == 1 and result.stderr.startswith("Error: There is no record of a request 'yours-7'.")


@pytest.mark.parametrize("time_range", ["24h", "all"])
def test_statistics_are_shown_as_a_table(rows: list[Row], time_range: str) -> None:
    result = _run("stats", "--time-range", time_range, "--gateway", "fireworks")
    stats = select_stats("fireworks", time_range, datetime.now(UTC))
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["requests", str(stats.total_requests)] in lines
    assert ["tokens", f"{stats.total_tokens:,}"] in lines
    assert ["ok", str(stats.outcomes["ok"])] in lines
    assert sum(line[:1] == ["model"] for line in lines) == len(stats.models)
    path = "/v1/chat/completions"
    assert [path, str(stats.total_requests)] in [line[:2] for line in lines]
    own = _run("stats", "--time-range", time_range, "--key", "key-1", "--endpoint", path).stdout
    assert own.startswith(f"all, key key-1, {path}, {time_range}: ")
    of_key = select_stats("all", time_range, datetime.now(UTC), key_id="key-1")
    assert ["requests", str(of_key.total_requests)] in [line.split() for line in own.splitlines()]


def test_statistics_of_a_model_are_of_all_keys(rows: list[Row]) -> None:
    lines = _run("stats", "--time-range", "all", "--model", "model 1").stdout.splitlines()
    assert lines[0].startswith("all, model model 1, all: ")
    assert {("requests", "3"), ("keys", "-"), ("ok", "3")} <= {tuple(line.split()) for line in lines}
    for arguments, words in {("--model", ""): "is empty", ("--model", "model 1", "--key", "key-1"): "all keys"}.items():
        result = _run("stats", *arguments)
        assert result.exit_code == 2 and words in result.stderr


def test_statistics_are_split_by_holder(rows: list[Row], engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO subject (id, kind, name) VALUES ('a', 'holder', 'alice')"))
        connection.execute(text("UPDATE api_key SET holder_id = 'a' WHERE id = 'key-1'"))
    stats = select_stats("all", "all", datetime.now(UTC), split_by="holder")
    of_alice = next(share for share in stats.split if share.name == "alice")
    lines = [line.split() for line in _run("stats", "--time-range", "all", "--split", "holder").stdout.splitlines()]
    assert ["alice", "(a)", str(of_alice.requests)] in [line[:3] for line in lines]
    assert ["(none)", str(stats.total_requests - of_alice.requests)] in [line[:2] for line in lines]
    shown = _run("stats", "--time-range", "all", "--holder", "alice").stdout
    assert shown.startswith("all, holder alice, all: ") and f"{of_alice.requests}" in shown.splitlines()[2]
    for arguments, code, words in [
        (("--holder", "nobody"), 1, "There is no holder 'nobody'. `bin/gateway holders list`"),
        (("--group", "nothing"), 1, "There is no group"),
        (("--holder", "alice", "--key", "key-1"), 2, "exclude each other"),
        (("--split", "key", "--key", "key-1"), 2, "--split is for"),
    ]:
        result = _run("stats", *arguments)
        assert result.exit_code == code and words in result.stderr, arguments


def test_a_key_that_is_not_stored_is_an_error_and_no_empty_table(rows: list[Row], engine: Engine) -> None:
    for command in ("stats", "export"):
        for key_id in ("", "nosuch"):
            result = _run(command, "--key", key_id)
            assert (result.exit_code, result.stdout) == (1, "")
            assert result.stderr.startswith(f"Error: There is no key {key_id!r}. `bin/gateway keys list` or GET")
        assert _run(command, "--key", "env").exit_code == 0
    assert revoke_key("key-1") is not None
    assert ["requests", "5"] in [
        line.split() for line in _run("stats", "--time-range", "all", "--key", "key-1").stdout.splitlines()
    ]


def test_statistics_without_requests_are_dashes(engine: Engine) -> None:
    result = _run("stats", "--time-range", "all")
    assert result.exit_code == 0
    assert ["tokens", "per", "second", "-"] in [line.split() for line in result.stdout.splitlines()]


@pytest.mark.parametrize("command", [["export"], ["purge", "--yes"], ["stats"], ["show", "an-id"]])
def test_an_unusable_database_is_reported_in_one_sentence(command: list[str]) -> None:
    away = "postgresql://nobody@/nothing?host=/nowhere"
    for settings, words in [({}, "DATABASE_URL is not set"), ({"DATABASE_URL": away}, "No such file")]:
        use_settings(load_settings(settings))
        try:
            result = _run(*command)
        finally:
            use_settings(None)
        assert result.exit_code == 1
        assert result.stderr.startswith("Error: ") and words in result.stderr


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(activity_group, arguments)


def _ids(text: str) -> list[str]:
    return [row["request_id"] for row in csv.DictReader(io.StringIO(text))]
