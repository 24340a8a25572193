"""What a request's record holds, and that it is written down at the right moments."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.config import load_settings
from app.db.tables import OUTCOMES, activity
from app.errors import Unavailable
from app.runtime import use_settings
from app.services.journal import record as subject
from app.services.journal.record import Activity, ActivityRow, new_request_id
from app.services.journal.recorder import Recorder


def _begin(recorder: Recorder) -> Activity:
    row = ActivityRow(request_id=new_request_id(), started_at=subject._format_now(), key_id="env", endpoint="/v1/x")
    recorder.begin()
    return Activity(recorder, row)


def _lines(recorder: Recorder) -> list[tuple[str, dict[str, object]]]:
    paths = sorted(recorder.writer.directory.glob("*.journal"))
    lines = [line for path in paths for line in path.read_text().splitlines()]
    return [(line[0], json.loads(line[1:])) for line in lines if line[0] != "H"]


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def test_a_row_has_the_columns_of_the_table_activity() -> None:
    assert set(ActivityRow.__struct_fields__) == {column.name for column in activity.columns}


def test_a_request_that_is_not_dispatched_has_a_final_record_only(recorder: Recorder) -> None:
    request = _begin(recorder)
    request.finish("rejected", 400)
    [(kind, row)] = _lines(recorder)
    assert (kind, row["outcome"], row["status"]) == ("F", "rejected", 400)


def test_the_start_record_is_the_row_of_a_lost_request(recorder: Recorder) -> None:
    request = _begin(recorder)
    request.row.model_requested = "llama"
    request.dispatch()
    [(kind, row)] = _lines(recorder)
    assert kind == "S"
    assert (row["outcome"], row["model_requested"], row["duration_ms"]) == ("lost", "llama", None)
    assert row["outcome"] in OUTCOMES


def test_a_second_finish_changes_nothing(recorder: Recorder) -> None:
    request = _begin(recorder)
    request.dispatch()
    request.finish("ok", 200)
    request.finish("client_gone", 499)
    assert [(kind, row["outcome"]) for kind, row in _lines(recorder)] == [("S", "lost"), ("F", "ok")]
    assert request.row.outcome == "ok"
    assert recorder.get_counts().in_flight == 0


def test_the_duration_is_that_of_the_monotonic_clock(recorder: Recorder) -> None:
    request = _begin(recorder)
    before_s = request.started_s
    request.finish("ok", 200)
    duration_ms = request.row.duration_ms
    assert duration_ms is not None and 0 <= duration_ms <= (time.monotonic() - before_s) * 1000


def test_the_start_is_utc_with_microseconds() -> None:
    text = subject._format_now()
    assert len(text) == len("2026-11-22T13:51:00.000000+00:00")
    assert abs(datetime.fromisoformat(text) - datetime.now(UTC)) < timedelta(seconds=5)


def test_ids_are_uuids_of_version_7_that_say_their_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    ids = [uuid.UUID(new_request_id()) for _ in range(1000)]
    after_ms = time.time_ns() // 1_000_000
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    assert all(before_ms <= one.int >> 80 <= after_ms for one in ids)


def test_ids_are_unique_although_the_clock_steps_back_and_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    hours_ns = [10, 9, 9, 11, 9]
    ids = []
    for hour in hours_ns:
        monkeypatch.setattr(subject.time, "time_ns", lambda hour=hour: hour * 3_600_000_000_000)
        ids += [new_request_id() for _ in range(20_000)]
    assert len(set(ids)) == len(ids) == 100_000


def test_texts_that_postgresql_refuses_are_mended(recorder: Recorder) -> None:
    request = _begin(recorder)
    request.row.finish_reason = "a\0b"
    request.row.upstream_request_id = "\ud800"
    request.row.model_served = "x" * 1_000_000
    request.row.attempts = [{"status": 500}] * 10_000
    request.finish("ok", 200)
    [(_, row)] = _lines(recorder)
    assert (row["finish_reason"], row["upstream_request_id"]) == ("a\ufffdb", "?")
    assert row["model_served"] == "x" * 200
    assert row["attempts"] == [{"status": 500}] * 10


def test_a_value_that_json_does_not_have_costs_its_details_but_not_the_row(
    recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    request = _begin(recorder)
    request.row.finish_reason = object()  # type: ignore[assignment]
    request.finish("ok", 200)
    [(kind, row)] = _lines(recorder)
    assert (kind, row["outcome"], row["finish_reason"]) == ("F", "ok", None)
    assert "activity_row_unencodable" in capfd.readouterr().err


def test_dispatch_refuses_when_the_journal_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file")
    use_settings(load_settings({"JOURNAL_FULL": "refuse"}))
    request = _begin(recorder)
    with pytest.raises(Unavailable) as caught:
        request.dispatch()
    assert caught.value.status == 503
    assert int(caught.value.headers()["retry-after"]) > 0
    request.finish("rejected", 503)
    assert recorder.get_counts()[:4] == (1, 0, 0, 1)


def test_dispatch_goes_on_when_the_setting_says_serve(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    recorder = Recorder(tmp_path / "file")
    use_settings(load_settings({"JOURNAL_FULL": "serve"}))
    request = _begin(recorder)
    request.dispatch()
    request.finish("ok", 200)
    assert recorder.get_counts()[:4] == (1, 0, 0, 1)


@pytest.fixture(autouse=True)
def _forget_settings() -> object:
    yield
    use_settings(None)
