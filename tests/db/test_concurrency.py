"""Several workers ship at once: overlapping batches and days without a partition cause no deadlock."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Connection, Engine, text

from app.db.activity import insert_activity
from app.db.insert_sql import INSERT_LOCK
from app.db.rollups import delete_fine_rollups, select_outcome_counts, select_usage
from tests.db.rows import NOON, contents, count, encode, insert_rows, make_row
from tests.support.waiting import wait_until

WORKERS = 5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_workers_that_ship_overlapping_batches_write_each_row_once(engine: Engine, seed: int) -> None:
    chance = random.Random(seed)
    lines = encode(
        make_row(
            after_s=chance.randrange(-100_000, 100_000),
            model_served=f"model-{chance.randrange(20)}",
            key_id=f"key-{chance.randrange(10)}",
        )
        for _ in range(600)
    )

    def ship(worker: int) -> int:
        own = random.Random(seed * 100 + worker)
        batches = [own.sample(lines, 60) for _ in range(12)]
        shuffled = own.sample(lines, len(lines))
        batches += [shuffled[start : start + 100] for start in range(0, len(lines), 100)]
        return sum(insert_activity(engine, batch) for batch in batches)

    with ThreadPoolExecutor(WORKERS) as pool:
        inserted = list(pool.map(ship, range(WORKERS)))
    assert sum(inserted) == len(lines) == count(engine, "activity")
    assert _totals(engine) == (600, 600 * 100)


def test_pruning_during_inserts_of_late_rows_neither_deadlocks_nor_loses_a_day(engine: Engine) -> None:
    late = encode(make_row(after_s=number * 61) for number in range(2000))
    long_after = NOON + timedelta(days=60)
    with ThreadPoolExecutor(2) as pool:
        shipped = [pool.submit(insert_activity, engine, late[start::40]) for start in range(40)]
        pruned = [pool.submit(delete_fine_rollups, engine, long_after) for _ in range(10)]
        assert sum(future.result() for future in shipped) == 2000
        assert all(future.result() >= 0 for future in pruned)
    with engine.connect() as connection:
        assert select_outcome_counts(connection) == {"ok": 2000}


def test_the_insert_lock_is_free_as_soon_as_the_statement_ends(engine: Engine) -> None:
    insert_rows(engine, [make_row()])
    with engine.connect() as connection:
        assert connection.execute(text("SELECT pg_try_advisory_xact_lock(:n)"), {"n": INSERT_LOCK}).scalar()


def test_a_row_inserted_while_another_batch_with_it_waits_is_not_counted_twice(engine: Engine) -> None:
    rows = [make_row(after_s=number) for number in range(20)]
    insert_rows(engine, [make_row(after_s=-1)])
    with ThreadPoolExecutor(4) as pool, engine.connect() as holder:
        # All four statements have taken their snapshots before any of them may write.
        holder.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": INSERT_LOCK})
        waiting = [pool.submit(insert_rows, engine, rows) for _ in range(4)]
        _wait_for_blocked_statements(holder, 4)
        holder.rollback()
        assert sorted(future.result() for future in waiting) == [0, 0, 0, 20]
    assert _totals(engine) == (21, 21 * 100)
    assert len(contents(engine, "key_usage")["key_usage"]) == 1


def _totals(engine: Engine) -> tuple[int, int]:
    window = {"start": NOON - timedelta(days=10), "end": NOON + timedelta(days=10)}
    with engine.connect() as connection:
        usage = select_usage(connection, **window, step=timedelta(days=1))
    sums = [row.sums for row in usage.outcomes]
    return sum(row.requests for row in sums), sum(row.prompt_tokens for row in sums)


def _wait_for_blocked_statements(connection: Connection, number: int) -> None:
    query = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = :n AND NOT granted")
    wait_until(lambda: connection.execute(query, {"n": INSERT_LOCK}).scalar() == number)
