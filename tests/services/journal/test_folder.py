"""Shipping workers soon fold the rows that they shipped; idle ones look rarely, and fold the rows that others left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from app.config import load_settings
from app.db import get_engine
from app.runtime import get_runtime, use_settings
from app.services.journal import folder
from app.services.journal.folder import Folder
from tests.db.rows import insert_rows, make_row
from tests.support.activity_tables import ActivityTables


@pytest.fixture
def tables(database_url: str) -> Iterator[ActivityTables]:
    use_settings(load_settings({"DATABASE_URL": database_url}))
    yield ActivityTables(database_url)
    use_settings(None)


def test_an_idle_worker_folds_too_but_looks_seldom(tables: ActivityTables, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, folds = [1_000.0], Folder(get_runtime())
    monkeypatch.setattr(folder, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(folder, "MIN_AGE_S", 0.0)

    def is_folded(after_s: float, *, is_idle: bool) -> bool:
        """Returns whether a new record is folded by a look that comes so many seconds after the last one."""
        now_s[0] += after_s
        insert_rows(get_engine(), [make_row(started_at=datetime.now(UTC))])
        folds.fold_if_due(is_idle=is_idle)
        return not tables.select("SELECT FROM rollup_delta")

    assert is_folded(0, is_idle=True)
    assert not is_folded(folder.LOOK_INTERVAL_S + 0.1, is_idle=True)
    assert is_folded(0, is_idle=False)
    assert is_folded(folder.LOOK_INTERVAL_S + folder.IDLE_PAUSE_S + 0.1, is_idle=True)
