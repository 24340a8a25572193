"""The record of a request: its fields, its limits, and when it is written."""

from __future__ import annotations

import json
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.config import MAX_NAME_CHARACTERS, load_settings
from app.db.insert_sql import WRITTEN_LATER
from app.db.tables import OUTCOMES, activity
from app.errors import Unavailable
from app.runtime import Runtime, use_settings
from app.services.journal import (
    ActivityRecord,
    Journal,
    get_journal_status,
    make_request_id,
    start_journal,
)
from app.services.journal import record as subject


def _open(root: Path, **settings: str) -> Journal:
    return Journal(Runtime(load_settings({"JOURNAL_DIR": str(root), **settings})))


def _begin(journal: Journal) -> ActivityRecord:
    return journal.begin("env", "/v1/x")


def _finish(journal: Journal, record: ActivityRecord, outcome: str, status: int) -> None:
    record.outcome, record.status = outcome, status
    journal.write_final(record)


def _lines(journal: Journal) -> list[tuple[str, dict[str, object]]]:
    paths = sorted(journal._recorder.writer.directory.glob("*.journal"))
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [(line[0], json.loads(line[1:])) for line in lines if line[0] != "H"]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return _open(tmp_path)


def test_a_record_has_the_columns_of_the_table_activity() -> None:
    # worker_id is added when the row is shipped, and the others are written to the row later.
    later = {"worker_id", *WRITTEN_LATER}
    assert later.isdisjoint(ActivityRecord.__struct_fields__)
    assert {*ActivityRecord.__struct_fields__} | later == {column.name for column in activity.columns}


def test_a_request_that_is_not_sent_has_a_final_line_only(journal: Journal) -> None:
    _finish(journal, _begin(journal), "rejected", 400)
    [(kind, row)] = _lines(journal)
    assert (kind, row["outcome"], row["status"]) == ("F", "rejected", 400)


def test_the_start_line_is_the_row_of_a_lost_request(journal: Journal) -> None:
    record = _begin(journal)
    record.model_requested = "llama"
    journal.write_start(record)
    [(kind, row)] = _lines(journal)
    assert kind == "S"
    assert (row["outcome"], row["model_requested"]) == ("lost", "llama")
    assert row["outcome"] in OUTCOMES
    # Unknown values are left out, and NULL in the table. Columns that must not be NULL are never left out.
    assert None not in row.values() and "duration_ms" not in row
    assert {column.name for column in activity.columns if not column.nullable} - {"worker_id"} <= row.keys()


def test_a_request_that_is_sent_has_both_lines_and_is_no_longer_in_flight(journal: Journal) -> None:
    record = _begin(journal)
    journal.write_start(record)
    _finish(journal, record, "ok", 200)
    assert [(kind, row["outcome"]) for kind, row in _lines(journal)] == [("S", "lost"), ("F", "ok")]
    assert journal._recorder.get_counts().in_flight == 0


def test_the_start_is_utc_with_microseconds() -> None:
    text = subject._format_now()
    assert len(text) == len("2026-11-22T13:51:00.000000+00:00")
    assert abs(datetime.fromisoformat(text) - datetime.now(UTC)) < timedelta(seconds=5)


def test_ids_are_uuids_of_version_7_with_the_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [uuid.UUID(make_request_id()) for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert all(before_ms <= one.int >> 80 <= after_ms for one in ids)


def test_ids_are_unique_although_the_clock_steps_back_and_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    hours_ns = [10, 9, 9, 11, 9]
    ids = []
    for hour in hours_ns:
        monkeypatch.setattr(subject.time, "time_ns", lambda hour=hour: hour * 3_600_000_000_000)
        ids += [make_request_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids) == 100_000


def test_texts_that_postgresql_refuses_are_repaired_and_long_ones_are_truncated(journal: Journal) -> None:
    record = _begin(journal)
    record.finish_reason = "a\0b"
    record.upstream_request_id = "\ud800"
    record.model_served = "x" * 1_000_000
    # Providers choose the codes of errors, and callers the names of models.
    record.attempts = [{"status": 500, "error": "e\udfff" * 300, "model": "m" * 1_000_000}] * 10_000
    _finish(journal, record, "ok", 200)
    [(_, row)] = _lines(journal)
    assert (row["finish_reason"], row["upstream_request_id"]) == ("a\ufffdb", "?")
    assert row["model_served"] == "x" * MAX_NAME_CHARACTERS
    kept = {"status": 500, "error": ("e?" * 300)[:MAX_NAME_CHARACTERS], "model": "m" * MAX_NAME_CHARACTERS}
    assert row["attempts"] == [kept] * 10 and subject.MAX_ATTEMPTS == 10
    # The log and the metrics read the record after it is written.
    assert record.model_served == row["model_served"] and record.attempts == row["attempts"]


@pytest.mark.parametrize("name", subject._EXTERNAL_TEXTS)
def test_a_text_just_over_its_limit_is_truncated_in_the_shortest_record(name: str) -> None:
    record = ActivityRecord("", "", "", "")
    setattr(record, name, "x" * (subject._SHORTEST_LIMIT + 1))
    record.request_id, record.started_at = make_request_id(), subject._format_now()
    assert len(json.loads(subject.encode_record(record))[name]) == subject._SHORTEST_LIMIT


def test_a_value_that_json_cannot_represent_costs_the_details_but_not_the_record(
    journal: Journal, capfd: pytest.CaptureFixture[str]
) -> None:
    record = _begin(journal)
    record.finish_reason = object()  # type: ignore[assignment]
    _finish(journal, record, "ok", 200)
    [(kind, row)] = _lines(journal)
    assert (kind, row["outcome"]) == ("F", "ok") and "finish_reason" not in row
    assert "record_encoding_failed" in capfd.readouterr().err


def test_a_failure_to_write_the_final_record_does_not_reach_the_request(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    record = _begin(journal)
    monkeypatch.setattr(journal._recorder, "write_final", fail)
    _finish(journal, record, "ok", 200)
    assert "record_write_failed" in capfd.readouterr().err


def test_a_start_is_refused_when_the_journal_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = _open(tmp_path / "file", JOURNAL_FULL="refuse")
    record = _begin(journal)
    with pytest.raises(Unavailable) as caught:
        journal.write_start(record)
    assert caught.value.status == 503
    assert int(caught.value.headers()["retry-after"]) > 0
    _finish(journal, record, "rejected", 503)
    assert journal._recorder.get_counts()[:4] == (1, 0, 0, 1)


def test_a_start_is_not_refused_when_the_setting_says_serve(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    journal = _open(tmp_path / "file", JOURNAL_FULL="serve")
    record = _begin(journal)
    journal.write_start(record)
    _finish(journal, record, "ok", 200)
    assert journal._recorder.get_counts()[:4] == (1, 0, 0, 1)


@pytest.mark.parametrize("outage", ["refuse", "serve"])
def test_a_charge_that_would_be_missing_is_refused_unless_budgets_may_be_exceeded(tmp_path: Path, outage: str) -> None:
    (tmp_path / "file").touch()
    journal = _open(tmp_path / "file", JOURNAL_FULL="serve", BUDGET_OUTAGE=outage)
    record = _begin(journal)
    record.budget_periods = []
    journal.write_start(record)
    record.budget_periods, record.charged_usd = [7], "0.5"
    if outage == "serve":
        journal.write_start(record)
        return
    with pytest.raises(Unavailable):
        journal.write_start(record)


def test_a_stop_without_a_start_keeps_the_records_that_it_cannot_ship(tmp_path: Path) -> None:
    journal = _open(tmp_path)
    assert journal.stop(1) and list(tmp_path.iterdir()) == []
    _finish(journal, _begin(journal), "ok", 200)
    assert not journal.stop(1) and len(_lines(journal)) == 1


def test_a_journal_starts_no_thread_until_it_is_started_and_ends_it_when_closed(tmp_path: Path) -> None:
    settings = load_settings({"JOURNAL_DIR": str(tmp_path), "DATABASE_URL": "postgresql://x@/x?host=/nowhere"})
    use_settings(settings)
    try:
        assert get_journal_status().backlog_rows == 0
        assert _shippers() == []
        start_journal()
        start_journal()
        [shipper] = _shippers()
    finally:
        use_settings(None)
    assert not shipper.is_alive()


def _shippers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "journal-shipper"]
