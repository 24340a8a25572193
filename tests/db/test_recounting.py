"""The sums of a day are recounted from its records, exactly as the trigger would have counted them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from sqlalchemy import Engine, text

from app.db.fold import fold_deltas
from app.db.reconciliation import select_uncounted
from app.db.recounting import update_sums_of_day
from tests.db.rows import NOON, Row, contents, count, insert_rows, make_row

SUMS = (
    "outcome_usage", "model_usage", "latency_usage", "key_presence",
    "usage_rollup", "model_rollup", "latency_rollup", "key_seen", "key_usage",
)  # fmt: skip
DAY = NOON.date()


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database shared by the tests of this file, each of which calls `_empty` first."""
    return file_engine


def _execute(engine: Engine, *statements: str) -> None:
    with engine.begin() as connection:
        for sql in statements:
            connection.execute(text(sql))


def _empty(engine: Engine) -> None:
    _execute(engine, f"TRUNCATE activity, rollup_delta, {', '.join(SUMS)}")


def _insert_uncounted(engine: Engine, rows: list[Row]) -> None:
    """Inserts rows as a restore does, which creates the triggers of a table last."""
    _execute(engine, "ALTER TABLE activity DISABLE TRIGGER count_activity")
    insert_rows(engine, rows)
    _execute(engine, "ALTER TABLE activity ENABLE TRIGGER count_activity")


def _fold(engine: Engine) -> dict[str, list[str]]:
    while fold_deltas(engine, min_age_s=0).folded:
        pass
    return contents(engine, *SUMS, "rollup_delta")


def _make_rows() -> list[Row]:
    """Returns rows at the first and the last instant of a day, in between, and on the adjacent days."""
    edges = [-43_200, -43_200.001, 43_199.999, 43_200, 43_260]
    kinds: list[Row] = [
        {},
        {"key_id": "key-2", "model_served": "accounts/fireworks/models/other", "cost_kind": "estimated"},
        {"outcome": "rejected", "status": 400, "ttft_ms": None, "error_type": "invalid_request_error"},
        {"outcome": "lost", "gateway": None, "model_served": None, "cost_usd": None, "cost_kind": "unknown"},
    ]
    rows = [make_row(after_s=after_s, **kind) for after_s in [*range(0, 9_000, 300), *edges] for kind in kinds]
    return rows


def test_the_sums_are_those_that_the_trigger_would_have_made(engine: Engine) -> None:
    _empty(engine)
    rows = _make_rows()
    insert_rows(engine, rows)
    expected = _fold(engine)
    _empty(engine)
    insert_rows(engine, rows[::3])
    _fold(engine)
    insert_rows(engine, rows[1::3])
    # The other days are not recounted.
    uncounted = [row for row in rows[2::3] if row["started_at"].date() == DAY]
    insert_rows(engine, [row for row in rows[2::3] if row["started_at"].date() != DAY])
    _insert_uncounted(engine, uncounted)
    # Like rows of early code, which the earlier family of sums gets without a fold.
    _execute(engine, "UPDATE activity SET worker_id = NULL WHERE key_id = 'key-2'")
    assert select_uncounted(engine) == {DAY: len(uncounted)} and len(uncounted) > 30
    assert update_sums_of_day(engine, DAY)
    assert select_uncounted(engine) == {}, "before a fold too"
    assert _fold(engine) == expected
    assert update_sums_of_day(engine, DAY)
    assert _fold(engine) == expected, "a repetition changes nothing"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda engine: _execute(engine, "DELETE FROM activity WHERE key_id = 'gone'"),
        lambda engine: _execute(engine, "UPDATE activity SET prompt_tokens = 0 WHERE key_id = 'gone'"),
        lambda engine: _execute(engine, "DELETE FROM outcome_usage WHERE level = 'minute' AND subject = ''"),
    ],
    ids=["a record is gone", "a record has less than was counted", "the minutes are pruned"],
)
@pytest.mark.parametrize("folds", [True, False])
def test_nothing_changes_where_the_sums_may_have_more(
    engine: Engine, spoil: Callable[[Engine], None], folds: bool
) -> None:
    _empty(engine)
    insert_rows(engine, [make_row(after_s=-60)])
    _fold(engine)
    insert_rows(engine, [make_row(after_s=60, key_id="gone"), make_row(after_s=120)])
    if folds:
        _fold(engine)
    _insert_uncounted(engine, [make_row(after_s=after_s) for after_s in (180, 180, 240)])
    spoil(engine)
    before = contents(engine, *SUMS, "rollup_delta", "activity")
    assert not update_sums_of_day(engine, DAY)
    assert contents(engine, *SUMS, "rollup_delta", "activity") == before


def test_records_that_arrive_meanwhile_are_counted_once(engine: Engine) -> None:
    _empty(engine)
    _insert_uncounted(engine, [make_row(after_s=after_s) for after_s in range(50)])
    ended = threading.Event()

    def insert() -> None:
        for after_s in range(25):
            insert_rows(engine, [make_row(after_s=after_s)])
            fold_deltas(engine, min_age_s=0, limit=3)
        ended.set()

    thread = threading.Thread(target=insert)
    thread.start()
    recounts = 0
    while not ended.is_set() or not recounts:
        assert update_sums_of_day(engine, DAY)
        recounts += 1
    thread.join()
    _fold(engine)
    assert count(engine, "activity") == 75 and select_uncounted(engine) == {}
    with engine.connect() as connection:
        levels = connection.execute(
            text("SELECT level, sum(requests)::int FROM outcome_usage WHERE subject = '' GROUP BY level")
        ).all()
    assert {tuple(row) for row in levels} == {("minute", 75), ("hour", 75), ("day", 75)}
