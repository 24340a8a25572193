"""Several workers ship at once: overlapping batches and days without a partition cause no deadlock."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from app.db.activity import insert_activity
from app.db.fold import fold_deltas
from app.db.insert_sql import INSERT_LOCK
from app.db.ledger import select_integrity
from app.db.rollup_pruning import delete_fine_rollups
from app.db.rollups import select_usage
from tests.db.rows import NOON, count, encode, insert_rows, make_row
from tests.support.soak import soak_only

WORKERS = 5
SEEDS = soak_only("db/test_concurrency.py::test_workers_that_ship_overlapping_batches_write_each_row_once")


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=SEEDS), pytest.param(3, marks=SEEDS)])
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


def test_pruning_and_folding_during_inserts_of_late_rows_neither_deadlocks_nor_loses_a_day(engine: Engine) -> None:
    late = encode(make_row(after_s=number * 61) for number in range(2000))
    long_after = NOON + timedelta(days=60)
    with ThreadPoolExecutor(3) as pool:
        shipped = [pool.submit(insert_activity, engine, late[start::40]) for start in range(40)]
        folded = [pool.submit(fold_deltas, engine, min_age_s=0) for _ in range(20)]
        pruned = [pool.submit(delete_fine_rollups, engine, long_after) for _ in range(10)]
        assert sum(future.result() for future in shipped) == 2000
        assert all(future.result() for future in folded)
        assert all(future.result() >= 0 for future in pruned)
    with engine.connect() as connection:
        assert select_integrity(connection)[1] == {"ok": 2000}


def test_writers_do_not_wait_for_whoever_holds_the_insert_lock(engine: Engine) -> None:
    rows = [make_row(after_s=number) for number in range(20)]
    with engine.connect() as holder:
        holder.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": INSERT_LOCK})
        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(lambda _: insert_rows(engine, rows), range(4))) == [0, 0, 0, 20]
        assert fold_deltas(engine, min_age_s=0) == (0, False)
    assert _totals(engine) == (20, 20 * 100)
    assert fold_deltas(engine, min_age_s=0).folded > 0
    assert _totals(engine) == (20, 20 * 100)


def _totals(engine: Engine) -> tuple[int, int]:
    window = {"start": NOON - timedelta(days=10), "end": NOON + timedelta(days=10)}
    with engine.connect() as connection:
        usage = select_usage(connection, **window, step=timedelta(days=1))
    sums = [row.sums for row in usage.outcomes]
    return sum(row.requests for row in sums), sum(row.prompt_tokens for row in sums)
