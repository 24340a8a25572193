"""Old and new writers together, failing folds, and the vacuum: every row is counted exactly once at every instant."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, OperationalError

from app.db import fold
from app.db.activity import insert_activity
from app.db.activity_pages import ActivityFilter, select_activity
from app.db.engine import create_engine_for
from app.db.fold import fold_deltas
from app.db.ledger import LedgerLine, select_integrity
from app.db.rollup_tables import rollup_delta
from app.db.rollups import select_usage
from tests.db.brute_force import Wanted, check_usage
from tests.db.old_code import check_old_sums, insert_old, insert_old_lines, make_partitions
from tests.db.rows import NOON, Row, count, encode, insert_rows, make_row
from tests.support.waiting import wait_until

DAY = timedelta(days=1)
SUMS = ("outcome_usage", "model_usage", "latency_usage", "key_presence", "usage_rollup", "latency_rollup", "key_usage")


@pytest.fixture
def wide_engine(database_url: str) -> Iterator[Engine]:
    """An engine with a connection for each of seven threads, so that none waits for a connection."""
    engine = create_engine_for(database_url, pool_size=8)
    yield engine
    engine.dispose()


def test_old_and_new_workers_side_by_side_count_every_row_once(wide_engine: Engine) -> None:
    engine = wide_engine
    chance = random.Random(5)
    history = [_random_row(chance) for _ in range(900)]
    make_partitions(engine, history)
    lines = encode(history)
    stop = threading.Event()
    with ThreadPoolExecutor(7) as pool:
        folds = pool.submit(_fold_until, engine, stop)
        looks = pool.submit(_look_until, engine, stop)
        # Each row is shipped by two workers, as after an adoption.
        old = [pool.submit(_ship, engine, lines, first, 4, f"old-{first}") for first in (0, 1)]
        new = [pool.submit(_ship, engine, lines, first, 3, f"new-{first}") for first in (0, 1, 2)]
        try:
            assert sum(future.result() for future in old + new) == len(lines)
        finally:
            stop.set()
        assert folds.result() > 0 and looks.result() > 0
    for is_folded in (False, True):
        for subject in ("", "key:key-1", "model:model-3"):
            wanted = Wanted(NOON - 5 * DAY, NOON + 5 * DAY, timedelta(hours=1), subject)
            with engine.connect() as connection:
                check_usage(select_usage(connection, **wanted._asdict()), wanted.choose(history), wanted)
        if not is_folded:
            _fold_all(engine)
    assert count(engine, "rollup_delta") == 0
    check_old_sums(engine)


def _random_row(chance: random.Random) -> Row:
    return make_row(
        after_s=chance.randrange(-100_000, 100_000),
        model_served=f"model-{chance.randrange(5)}",
        key_id=f"key-{chance.randrange(3)}",
        outcome=chance.choice(["ok", "ok", "upstream_error"]),
        error_type=None,
        duration_ms=chance.lognormvariate(7, 2),
    )


def _ship(engine: Engine, lines: list[bytes], first: int, workers: int, worker_id: str) -> int:
    """Ships a worker's share of the lines in random order and batches; returns how many were new."""
    own = lines[first::workers]
    if worker_id.startswith("old"):
        own = lines[first * 2 :: workers] + lines[first * 2 + 1 :: workers]
    random.Random(worker_id).shuffle(own)
    inserted = 0
    for version, start in enumerate(range(0, len(own), 30), 1):
        inserted += _insert(engine, own[start : start + 30], worker_id, version)
    return inserted


def _insert(engine: Engine, batch: list[bytes], worker_id: str, version: int) -> int:
    while True:
        try:
            if worker_id.startswith("old"):
                return insert_old_lines(engine, batch, worker_id, version)
            return insert_activity(engine, batch, LedgerLine(worker_id=worker_id, version=version))
        except OperationalError as error:
            # The old code inserts rows in another order, so both may deadlock over a row that both ship, and on a slow
            # machine it may wait too long for its lock. Both repeat a batch whose statement failed.
            assert getattr(error.orig, "pgcode", None) in {"40P01", "55P03"}


def _fold_until(engine: Engine, stop: threading.Event) -> int:
    folded = 0
    while not stop.is_set():
        folded += fold_deltas(engine, min_age_s=0, limit=40).folded
    return folded


def _look_until(engine: Engine, stop: threading.Event) -> int:
    """Compares rows and counts repeatedly, each time in one snapshot; returns the number of comparisons."""
    looks = 0
    while not stop.is_set():
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            counted = sum(select_integrity(connection)[1].values())
            usage = select_usage(connection, start=NOON - 5 * DAY, end=NOON + 5 * DAY, step=DAY)
            rows = connection.execute(text("SELECT count(*) FROM activity")).scalar()
        assert rows == counted == sum(row.sums.requests for row in usage.outcomes)
        assert rows == sum(row.sums.requests for row in usage.models)
        looks += 1
    return looks


def _fold_all(engine: Engine) -> None:
    while fold_deltas(engine, min_age_s=0).folded:
        pass


def test_a_row_says_which_worker_shipped_it(engine: Engine) -> None:
    rows = [make_row(after_s=second) for second in range(3)]
    insert_rows(engine, rows[:1])
    insert_activity(engine, encode(rows[1:2]), LedgerLine(worker_id="0a1b", version=1))
    insert_old(engine, rows)
    with engine.connect() as connection:
        newest_first = select_activity(connection, ActivityFilter()).rows
        in_old_family = connection.execute(text("SELECT in_old_family FROM rollup_delta ORDER BY id")).scalars().all()
    assert [row["worker_id"] for row in newest_first] == [None, "0a1b", "none"]
    assert in_old_family == [False, False, True]


def test_a_fold_that_is_killed_changes_nothing_and_the_next_one_counts_once(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=second) for second in range(50)])
    with engine.connect() as holder, ThreadPoolExecutor(1) as pool:
        # The fold has taken the deltas and waits for the last of its tables.
        holder.execute(text("LOCK TABLE key_seen IN EXCLUSIVE MODE"))
        killed = pool.submit(fold_deltas, engine, min_age_s=0)
        waiting = "FROM pg_stat_activity WHERE query LIKE '%rollup_delta USING turn%' AND wait_event_type = 'Lock'"
        wait_until(lambda: _select(engine, f"SELECT count(*) {waiting}") == 1, what="a waiting fold")
        assert insert_rows(engine, [make_row(after_s=60)]) == 1
        _execute(engine, f"SELECT pg_terminate_backend(pid) {waiting}")
        with pytest.raises(DBAPIError):
            killed.result()
    assert [count(engine, table) for table in ("rollup_delta", *SUMS)] == [2] + [0] * len(SUMS)
    assert _count_requests(engine) == 51
    assert fold_deltas(engine, min_age_s=0) == (2, False)
    assert _count_requests(engine) == 51
    check_old_sums(engine)


def _count_requests(engine: Engine) -> int:
    with engine.connect() as connection:
        return sum(select_integrity(connection)[1].values())


def test_a_delta_is_folded_at_its_age_and_one_from_the_future_at_once(engine: Engine) -> None:
    insert_rows(engine, [make_row()])
    assert fold_deltas(engine, min_age_s=60) == (0, False)
    _execute(engine, "UPDATE rollup_delta SET created_at = created_at - interval '1 minute'")
    assert fold_deltas(engine, min_age_s=60) == (1, False)
    insert_rows(engine, [make_row()])
    _execute(engine, "UPDATE rollup_delta SET created_at = created_at + interval '1 day'")
    assert fold_deltas(engine, min_age_s=60) == (1, False)


def test_a_long_backlog_is_folded_in_parts(engine: Engine) -> None:
    insert_rows(engine, [make_row(after_s=60 * minute) for minute in range(25)])
    assert [fold_deltas(engine, min_age_s=0, limit=10) for _ in range(3)] == [(10, True), (10, True), (5, False)]
    assert _count_requests(engine) == 25


def test_what_folds_leave_behind_is_vacuumed(engine: Engine) -> None:
    insert_rows(engine, [make_row()])
    columns = [column.name for column in rollup_delta.columns if column.name != "id"]
    copied = f"INSERT INTO rollup_delta ({', '.join(columns)}) SELECT {', '.join(columns)} FROM rollup_delta"
    _execute(engine, f"{copied}, generate_series(1, {fold.MAX_DEAD_DELTAS + 1})")
    _execute(engine, "DELETE FROM rollup_delta")
    # The number of dead rows reaches the statistics that all sessions share within a second or so.
    dead = "SELECT pg_stat_get_dead_tuples('rollup_delta'::regclass)"
    wait_until(lambda: _select(engine, dead) > fold.MAX_DEAD_DELTAS, what="the number of dead rows")
    fold_deltas(engine)
    wait_until(lambda: _select(engine, dead) < 1_000, what="a vacuum")
    assert _select(engine, "SELECT pg_stat_get_vacuum_count('rollup_delta'::regclass)") == 1


def _execute(engine: Engine, sql: str) -> None:
    with engine.begin() as connection:
        connection.execute(text(sql))


def _select(engine: Engine, sql: str) -> Any:
    with engine.connect() as connection:
        return connection.execute(text(sql)).scalar_one()
