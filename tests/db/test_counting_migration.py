"""Migration 0007 keeps earlier statistics, works beside the code before it, and can be reverted exactly."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine

from app.db.day_usage import select_day_usage, select_key_usage
from app.db.engine import create_engine_for
from app.db.fold import fold_deltas
from app.db.ledger import select_integrity
from app.db.partitions import drop_partitions
from app.db.rollups import select_usage
from app.db.schema import downgrade_schema, upgrade_schema
from tests.db.brute_force import Wanted, check_usage, key_days, outcomes_of, rounded
from tests.db.old_code import check_old_sums, insert_old, make_partitions
from tests.db.rows import Row, contents, insert_rows, make_row
from tests.support.postgres import Postgres
from tests.support.soak import soak_only

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
# Rows before this day are dropped before the migration.
KEPT_FROM = (NOW - 40 * DAY).replace(hour=0, minute=0)
EARLIER = ("usage_rollup", "model_rollup", "key_seen", "key_usage", "latency_rollup")

# Windows of statistics: subject, length and step.
WINDOWS = [
    *(
        (subject, length, step)
        for subject in ("", "key:key-1", "model:b")
        for length, step in [(HOUR, HOUR), (DAY, HOUR)]
    ),
    *(("", 7 * DAY, 6 * HOUR), ("", 30 * DAY, DAY)),
]


@pytest.fixture
def url(postgres: Postgres) -> Iterator[str]:
    """The address of a database with migration 0006."""
    url = postgres.create_database()
    upgrade_schema(url, "0006")
    yield url
    postgres.drop_database(url)


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    """An engine on that database."""
    engine = create_engine_for(url)
    yield engine
    engine.dispose()


@soak_only("db/test_fold.py::test_old_and_new_workers_side_by_side_count_every_row_once")
def test_the_past_is_counted_as_before_and_both_codes_go_on(url: str, engine: Engine) -> None:
    chance = random.Random(7)
    history = [_random_row(chance) for _ in range(400)]
    make_partitions(engine, history)
    for start in range(0, len(history), 100):
        insert_old(engine, history[start : start + 100])
    assert len(list(drop_partitions(engine, KEPT_FROM.date()))) > 3
    before = contents(engine, *EARLIER)

    upgrade_schema(url, "0007")
    assert contents(engine, *EARLIER) == before
    _check(engine, history)
    check_old_sums(engine)

    upgrade_schema(url)  # To the columns of this code.
    more = [_random_row(chance, days=2) for _ in range(200)]
    insert_old(engine, more[:150])
    insert_rows(engine, more[100:])
    history += more
    _check(engine, history)
    while fold_deltas(engine, min_age_s=0, limit=70).folded:
        pass
    _check(engine, history)
    check_old_sums(engine)

    # No fold follows these rows, but the downgrade adds them to the earlier tables.
    rest = [_random_row(chance, days=2) for _ in range(50)]
    insert_rows(engine, rest[:30])
    insert_old(engine, rest[20:])
    downgrade_schema(url, "0006")
    upgrade_schema(url, "0007")
    _check(engine, history + rest)
    check_old_sums(engine)


def _random_row(chance: random.Random, days: int = 45) -> Row:
    outcome = chance.choice(["ok", "ok", "ok", "upstream_error", "rejected"])
    return make_row(
        started_at=NOW - chance.choice([HOUR, DAY, days * DAY]) * chance.random(),
        key_id=chance.choice(["key-1", "key-2", "env"]),
        gateway=chance.choice([None, "fireworks", "chutes"]),
        model_served=chance.choice([None, "a", "b"]),
        outcome=outcome,
        error_type=chance.choice([None, "rate_limit_error"]),
        duration_ms=chance.choice([None, chance.lognormvariate(7, 2)]),
    )


def _check(engine: Engine, history: list[Row]) -> None:
    with engine.connect() as connection:
        for subject, length, step in WINDOWS:
            wanted = Wanted(NOW - length, NOW + HOUR, step, subject)
            check_usage(select_usage(connection, **wanted._asdict()), wanted.choose(history), wanted)
        midnight = NOW.replace(hour=0, minute=0)
        # All requests ever; for keys and models, the kept ones. A key's longer windows begin on a whole hour.
        for subject, start in {
            "": midnight - 50 * DAY,
            "model:b": KEPT_FROM,
            "key:key-2": KEPT_FROM,
            "key:key-1": (NOW - 7 * DAY).replace(minute=0),
        }.items():
            wanted = Wanted(start, midnight + 2 * DAY, DAY, subject)
            check_usage(select_usage(connection, **wanted._asdict()), wanted.choose(history), wanted)
        assert select_integrity(connection)[1] == outcomes_of(history)
        days = {"first": (NOW - 50 * DAY).date(), "last": (NOW + DAY).date()}
        by_key = {row[:4]: rounded(row.sums) for row in select_key_usage(connection, **days)}
        by_day = {("", *row[:3]): rounded(row.sums) for row in select_day_usage(connection, **days)}
    assert by_key == key_days(history)
    assert by_day == key_days(row | {"key_id": ""} for row in history)
