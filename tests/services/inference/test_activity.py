"""A request under way: it ends once, and its duration is measured."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from app.config import load_settings
from app.runtime import Runtime
from app.services.inference.activity import Activity
from app.services.journal import Journal


@pytest.fixture
def activity(tmp_path: Path) -> Activity:
    journal = Journal(Runtime(load_settings({"JOURNAL_DIR": str(tmp_path)})))
    return Activity(journal, journal.begin("env", "/v1/x"))


def test_a_second_finish_changes_nothing(activity: Activity, tmp_path: Path) -> None:
    activity.dispatch()
    assert activity.finish("ok", 200)
    assert not activity.finish("client_gone", 499)
    assert activity.row.outcome == "ok"
    [segment] = tmp_path.rglob("*.journal")
    assert [line[:1] for line in segment.read_text().splitlines()] == ["H", "S", "F"]


def test_the_duration_is_that_of_the_monotonic_clock(activity: Activity) -> None:
    before_s = activity.started_s
    activity.finish("ok", 200)
    duration_ms = activity.row.duration_ms
    assert duration_ms is not None and 0 <= duration_ms <= (time.monotonic() - before_s) * 1000
