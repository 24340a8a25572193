"""Storage stays bounded: partitions are made and dropped, fine rollups are deleted, and statistics stay the same."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from app.db.day_usage import select_key_usage
from app.db.fold import fold_deltas
from app.db.ledger import select_integrity
from app.db.partitions import (
    DAYS_AHEAD,
    PARTITION_LOCK,
    drop_partitions,
    insert_partitions,
    insert_partitions_ahead,
    select_partition_days,
)
from app.db.rollup_pruning import FINE_LEVELS_KEPT, SUBJECT_MINUTES_KEPT, delete_fine_rollups
from app.db.rollups import Usage, select_usage
from tests.db.rows import NOON, contents, count, insert_rows, make_row
from tests.support.waiting import wait_until

DAY = timedelta(days=1)
TODAY = NOON.date()
ROLLUPS = ("rollup_delta", "outcome_usage", "model_usage", "latency_usage", "key_presence", "usage_rollup")


def test_partitions_are_made_for_today_and_the_days_ahead_once(engine: Engine) -> None:
    days = [TODAY + ahead * DAY for ahead in range(DAYS_AHEAD + 1)]
    assert insert_partitions_ahead(engine, TODAY) == days
    assert insert_partitions_ahead(engine, TODAY) == []
    assert insert_partitions_ahead(engine, TODAY + DAY) == [days[-1] + DAY]
    assert _days(engine) == [*days, days[-1] + DAY]


def test_a_partition_has_the_indexes_and_checks_of_the_table(engine: Engine) -> None:
    insert_partitions_ahead(engine, TODAY)
    query = """SELECT (SELECT count(*) FROM pg_index WHERE indrelid = c.oid),
        (SELECT count(*) FROM pg_constraint WHERE conrelid = c.oid) FROM pg_class c WHERE relname = :name"""
    with engine.connect() as connection:
        parent, child = (
            connection.execute(text(query), {"name": name}).one() for name in ["activity", f"activity_p{TODAY:%Y%m%d}"]
        )
    assert child == parent and parent[0] == 9


def test_statistics_of_a_month_are_the_same_after_its_rows_are_dropped(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-hour * 3600, key_id=f"key-{hour % 3}") for hour in range(600)])
    before, rollups = _statistics(engine), contents(engine, *ROLLUPS)
    dropped = list(drop_partitions(engine, TODAY))
    assert dropped == [TODAY - days * DAY for days in range(25, 0, -1)]
    assert _days(engine) == [TODAY] and 0 < count(engine, "activity") < 24
    assert _statistics(engine) == before
    assert contents(engine, *ROLLUPS) == rollups


def test_a_row_older_than_retention_is_counted_and_then_dropped_with_its_day(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-86_400 * 200)])
    assert list(drop_partitions(engine, TODAY)) == [TODAY - 200 * DAY]
    with engine.connect() as connection:
        assert select_integrity(connection)[1] == {"ok": 1}


def test_a_drop_that_waits_does_not_block_writers_of_other_days(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-86_400), make_row()])
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM activity")).all()
        drop = threading.Thread(target=lambda: list(drop_partitions(engine, TODAY)))
        drop.start()
        # The drop waits for the reader's transaction; a writer of another day must not queue behind it.
        _wait_for_blocked_detach(engine)
        assert insert_rows(engine, [make_row()]) == 1
        assert drop.is_alive()
    drop.join(10)
    assert _days(engine) == [TODAY]


def test_a_drop_that_was_interrupted_is_finished_by_the_next(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-86_400), make_row()])
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM activity")).all()
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as dropping:
            dropping.execute(text("SET lock_timeout = '50ms'"))
            name = f"activity_p{TODAY - DAY:%Y%m%d}"
            with pytest.raises(OperationalError):
                dropping.exec_driver_sql(f"ALTER TABLE activity DETACH PARTITION {name} CONCURRENTLY")
            dropping.execute(text("RESET lock_timeout"))
    assert list(drop_partitions(engine, TODAY)) == [TODAY - DAY]
    assert _days(engine) == [TODAY]


def test_a_table_left_behind_by_a_dead_worker_is_dropped(engine: Engine) -> None:
    insert_rows(engine, [make_row()])
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE activity DETACH PARTITION activity_p{TODAY:%Y%m%d}")
    assert list(drop_partitions(engine, TODAY - DAY)) == [TODAY]
    assert list(drop_partitions(engine, TODAY - DAY)) == []


def test_only_one_worker_drops_at_a_time(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=-86_400)])
    with engine.connect() as other:
        other.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": PARTITION_LOCK})
        assert list(drop_partitions(engine, TODAY)) == []
    assert list(drop_partitions(engine, TODAY)) == [TODAY - DAY]


def test_a_partition_that_two_workers_want_is_made_once(engine: Engine) -> None:
    threads = [threading.Thread(target=insert_partitions_ahead, args=(engine, TODAY)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(_days(engine)) == DAYS_AHEAD + 1


def test_minutes_and_hours_are_pruned_and_days_stay(engine: Engine) -> None:
    old = -int(FINE_LEVELS_KEPT.total_seconds()) - 86_400
    insert_rows(engine, [make_row(after_s=old + minute * 60) for minute in range(30)])
    insert_rows(engine, [make_row()])
    fold_deltas(engine, min_age_s=0)
    # Thirty minutes and their hour. Each has 5 rows in the earlier tables (usage, model, key, two latencies). In the
    # later ones it has 1 for the key, 3 (usage, two latencies) for each of all requests, the key and the model, and 2
    # for the models of two of these.
    assert delete_fine_rollups(engine, NOON) == 31 * (5 + 1 + 3 * 3 + 2)
    assert delete_fine_rollups(engine, NOON) == 0
    first = (NOON + old * timedelta(seconds=1)).date()
    usage = _usage(engine, datetime(first.year, first.month, first.day, tzinfo=UTC), NOON + DAY)
    assert [row.sums.requests for row in usage.outcomes] == [31]


def test_minutes_of_keys_and_models_are_pruned_sooner(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=minute * 60) for minute in range(30)])
    fold_deltas(engine, min_age_s=0)
    later = NOON + SUBJECT_MINUTES_KEPT + timedelta(hours=1)
    assert delete_fine_rollups(engine, later) == 30 * (2 * 3 + 1)
    with engine.connect() as connection:
        for subject, start in {"": NOON + timedelta(minutes=1), "key:key-1": NOON}.items():
            usage = select_usage(connection, start=start, end=NOON + DAY, step=DAY, subject=subject)
            assert usage.outcomes[0].sums.requests == (30 if subject else 29)


@pytest.mark.parametrize(
    "refusal",
    [
        {"outcome": "rejected"},
        *({"outcome": "upstream_error", "status": status} for status in (400, 403, 404, 422, 429, 500, 503)),
        {"outcome": "upstream_cut", "status": 200},
        {"outcome": "client_gone", "status": 499},
        {"outcome": "lost", "status": 500},
    ],
    ids=lambda refusal: f"{refusal['outcome']}-{refusal.get('status')}",
)
def test_model_names_that_only_a_client_gave_do_not_grow_the_rollups(
    engine: Engine, refusal: dict[str, object]
) -> None:
    refused = {"model_served": None, "cost_usd": None, "cost_kind": "unknown", **refusal}
    insert_rows(engine, [make_row(model_requested=f"junk-{number}", **refused) for number in range(100)])
    fold_deltas(engine, min_age_s=0)
    # For all requests and for the key: a minute, an hour and a day.
    assert count(engine, "model_usage") == 6
    assert count(engine, "outcome_usage") == 6


def test_only_days_without_a_partition_get_one(engine: Engine) -> None:
    with engine.begin() as connection:
        assert insert_partitions(connection, [TODAY, TODAY]) == [TODAY]
    with engine.begin() as connection:
        assert insert_partitions(connection, [TODAY, date(2020, 1, 1)]) == [date(2020, 1, 1)]


def _statistics(engine: Engine) -> object:
    with engine.connect() as connection:
        keys = select_key_usage(connection, first=TODAY - 60 * DAY, last=TODAY)
    windows = [timedelta(hours=1), DAY, 7 * DAY, 30 * DAY]
    minute = NOON + timedelta(minutes=17)
    return keys, [_usage(engine, minute - window, minute) for window in windows]


def _usage(engine: Engine, start: datetime, end: datetime) -> Usage:
    with engine.connect() as connection:
        return select_usage(connection, start=start, end=end, step=DAY)


def _days(engine: Engine) -> list[date]:
    with engine.connect() as connection:
        return select_partition_days(connection)


def _wait_for_blocked_detach(engine: Engine) -> None:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE query ~ 'DETACH' AND wait_event_type = 'Lock'")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait_until(lambda: connection.execute(query).scalar())
