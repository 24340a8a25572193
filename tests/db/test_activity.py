"""Rows of activity are inserted once although they are sent several times, and unacceptable rows are reported."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from app.db import tables
from app.db.activity import UnacceptableRows, insert_activity
from app.db.activity_pages import ActivityFilter, select_activity
from app.db.partitions import select_partition_days
from tests.db.rows import NOON, contents, count, encode, insert_rows, make_row
from tests.support.postgres import Postgres

SUMS = ("rollup_delta", "outcome_usage", "model_usage", "latency_usage", "key_presence")


def test_a_row_is_read_as_it_was_written(engine: Engine) -> None:
    row = make_row(price_date="2026-03-01", upstream_status=200, events=52, client_retry=1)
    insert_rows(engine, [row])
    with engine.connect() as connection:
        read = select_activity(connection, ActivityFilter()).rows[0]
    assert {name: read[name] for name in row} == row | {"price_date": read["price_date"]}
    assert read["price_date"].isoformat() == "2026-03-01"
    assert set(read) == set(tables.activity.columns.keys())


def test_an_empty_batch_writes_nothing(engine: Engine) -> None:
    assert insert_activity(engine, []) == 0


def test_a_replayed_batch_changes_nothing(engine: Engine) -> None:
    rows = [make_row(after_s=second) for second in range(50)]
    assert insert_rows(engine, rows) == 50
    before = contents(engine, "activity", *SUMS)
    assert insert_rows(engine, rows) == 0
    assert contents(engine, "activity", *SUMS) == before


def test_a_row_twice_in_one_batch_is_counted_once(engine: Engine) -> None:
    row = make_row()
    assert insert_rows(engine, [row, row, make_row(), row]) == 2
    assert count(engine, "activity") == 2


def test_a_batch_that_overlaps_an_earlier_one_adds_only_the_new_rows(engine: Engine) -> None:
    rows = [make_row(after_s=second) for second in range(10)]
    insert_rows(engine, rows[:6])
    assert insert_rows(engine, rows) == 4


@pytest.mark.parametrize("when", [NOON - timedelta(days=1800), NOON, NOON + timedelta(days=9000)])
def test_a_row_of_a_day_without_partition_makes_the_partition(engine: Engine, when: datetime) -> None:
    assert insert_rows(engine, [make_row(started_at=when), make_row()]) == 2
    with engine.connect() as connection:
        assert select_partition_days(connection) == sorted({when.date(), NOON.date()})


def test_a_day_begins_at_midnight_utc_whatever_offset_the_row_has(engine: Engine) -> None:
    insert_rows(engine, [make_row(started_at="2026-03-14T23:30:00-02:00")])
    with engine.connect() as connection:
        assert [day.isoformat() for day in select_partition_days(connection)] == ["2026-03-15"]
        read = select_activity(connection, ActivityFilter()).rows[0]
    assert read["started_at"] == datetime(2026, 3, 15, 1, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [
        {"model_requested": "nul \x00 character"},
        {"prompt_tokens": -1},
        {"prompt_tokens": 2**63},
        {"completion_tokens": 10**12 + 1},
        {"duration_ms": -0.5},
        {"cost_usd": "-0.1"},
        {"cost_usd": 10**20},
        {"outcome": "fine"},
        {"cost_kind": "unknown"},
        {"cost_usd": None},
        {"status": None},
        {"status": "teapot"},
        {"request_id": "not-a-uuid"},
        {"started_at": "yesterday noon"},
        {"started_at": "infinity"},
        {"started_at": "1970-01-01T00:00:00Z"},
        {"started_at": None},
    ],
    ids=str,
)
def test_a_batch_with_a_row_that_cannot_be_stored_is_refused_and_writes_nothing(
    engine: Engine, change: dict[str, object]
) -> None:
    with pytest.raises(UnacceptableRows) as caught:
        insert_rows(engine, [make_row(), make_row(**change), make_row()])
    assert "SQL" not in str(caught.value) and len(str(caught.value)) < 300
    assert [count(engine, table) for table in ("activity", *SUMS)] == [0] * 6


@pytest.mark.parametrize("line", [b'{"request_id": "cut', b"\xff\xfe", b"[]", b"7", b"[" * 100_000])
def test_a_batch_with_an_invalid_line_is_refused(engine: Engine, line: bytes) -> None:
    with pytest.raises(UnacceptableRows):
        insert_activity(engine, [*encode([make_row()]), line])
    assert insert_rows(engine, [make_row()]) == 1


def test_long_texts_are_truncated_and_not_refused(engine: Engine) -> None:
    names = ["model_requested", "model_served", "gateway", "error_type", "upstream_request_id", "key_id"]
    insert_rows(engine, [make_row(**dict.fromkeys(names, "ä" * 50_000))])
    with engine.connect() as connection:
        read = select_activity(connection, ActivityFilter()).rows[0]
    assert [read[name] for name in names] == ["ä" * 300] * len(names)


def test_columns_that_this_schema_does_not_have_are_ignored(engine: Engine) -> None:
    assert insert_rows(engine, [make_row(shoe_size=43)]) == 1


def test_percent_signs_backslashes_and_quotes_arrive_unchanged(engine: Engine) -> None:
    text = """100 %s %(rows)s \\ ' " :name é 漢字 😀"""
    insert_rows(engine, [make_row(finish_reason=text)])
    with engine.connect() as connection:
        assert select_activity(connection, ActivityFilter()).rows[0]["finish_reason"] == text


def test_rows_are_not_called_unacceptable_while_the_database_is_unavailable(
    victim: Postgres, victim_engine: Engine
) -> None:
    row = make_row()
    victim.stop()
    try:
        with pytest.raises(SQLAlchemyError) as caught:
            insert_rows(victim_engine, [row])
        assert isinstance(caught.value, OperationalError)
    finally:
        victim.start()
    assert insert_rows(victim_engine, [row]) == 1
