"""The sums equal those over the rows, for any history in any batches, even if batches are sent again.

Rows are written by this code and by the code before migration 0007, with folds at any moment in between.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.db.activity import insert_activity
from app.db.day_usage import select_day_usage, select_key_usage
from app.db.fold import fold_deltas
from app.db.ledger import select_integrity
from app.db.rollups import Usage, select_first_day, select_usage
from app.db.tables import OUTCOMES
from tests.db.brute_force import Wanted, check_usage, key_days, outcomes_of, rounded
from tests.db.old_code import check_old_sums, insert_old, make_partitions
from tests.db.rows import NOON, Row, encode, make_row
from tests.support.soak import examples

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SUBJECTS = ["", "", "key:key-1", "key:env", "key:", "model:X", "model:%"]
ENDPOINTS = ["/v1/chat/completions", "/v1/embeddings"]

# Minutes around NOON: same minute, same hour, both sides of hours and days, and a few days off.
AFTER_S = st.sampled_from([0, 59, 60, 3599, 3600, 43_199, 43_200, -43_200, -43_201, 100_000, -200_000, 260_000])
TOKENS = st.none() | st.integers(0, 10**6) | st.just(10**12)
LATENCY_MS = st.none() | st.floats(0, 10**7)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Any row that the table accepts."""
    cost_kind = draw(st.sampled_from(["exact", "estimated", "unknown"]))
    cost = None if cost_kind == "unknown" else draw(st.decimals(0, 1000, places=15))
    return make_row(
        request_id=draw(st.uuids()),
        after_s=draw(AFTER_S) + draw(st.sampled_from([0, 0.25])),
        key_id=draw(st.sampled_from(["key-1", "key-2", "env"])),
        gateway=draw(st.sampled_from([None, "fireworks", "chutes"])),
        endpoint=draw(st.sampled_from(ENDPOINTS)),
        model_requested=draw(st.sampled_from([None, "x", "y"])),
        model_served=draw(st.sampled_from([None, "X", "%"])),
        status=draw(st.sampled_from([200, 404, 502])),
        outcome=draw(st.sampled_from(OUTCOMES)),
        error_type=draw(st.sampled_from([None, "upstream_error", "rate_limit_error"])),
        prompt_tokens=draw(TOKENS),
        completion_tokens=draw(TOKENS),
        cached_tokens=draw(TOKENS),
        reasoning_tokens=draw(TOKENS),
        cost_kind=cost_kind,
        cost_usd=cost,
        tokens_per_second=draw(st.none() | st.sampled_from([0.0, 0.0001, 0.5, 80.0])),
        duration_ms=draw(LATENCY_MS),
        ttft_ms=draw(LATENCY_MS),
    )


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """A database shared by all examples, each of which empties it."""
    return file_engine


# Each example runs some thirty statements.
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_sums_equal_those_over_the_rows_after_any_replays_and_folds(engine: Engine, data: st.DataObject) -> None:
    _empty(engine)
    history = data.draw(st.lists(rows(), min_size=1, max_size=25))
    make_partitions(engine, history)
    for _ in range(data.draw(st.integers(0, 8))):
        _take_step(engine, data, data.draw(st.lists(st.sampled_from(history), max_size=12)))
    insert_activity(engine, encode(history))
    start, end = sorted(NOON + data.draw(AFTER_S) // 60 * MINUTE for _ in range(2))
    step = data.draw(st.sampled_from([MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY]))
    gateway = data.draw(st.sampled_from([None, "fireworks", "chutes"]))
    endpoint = data.draw(st.sampled_from([None, *ENDPOINTS]))
    subject = data.draw(st.sampled_from(SUBJECTS))
    part = Wanted(start, end, step, subject, gateway, endpoint)
    for _ in range(2):
        for wanted in (part, Wanted(NOON - 30 * DAY, NOON + 30 * DAY, step, subject)):
            check_usage(_select(engine, wanted), wanted.choose(history), wanted)
        _check_whole_history(engine, history)
        fold_deltas(engine, min_age_s=0, limit=data.draw(st.integers(1, 30)))
    _fold_all(engine)
    check_old_sums(engine)


def _take_step(engine: Engine, data: st.DataObject, batch: list[Row]) -> None:
    how = data.draw(st.sampled_from(["new", "old", "fold", "fold all"]))
    if how == "new":
        insert_activity(engine, encode(batch))
    elif how == "old":
        insert_old(engine, batch)
    else:
        fold_deltas(engine, min_age_s=0, limit=1 if how == "fold" else 5_000)


def _fold_all(engine: Engine) -> None:
    while fold_deltas(engine, min_age_s=0).folded:
        pass


def _select(engine: Engine, wanted: Wanted) -> Usage:
    with engine.connect() as connection:
        return select_usage(connection, **wanted._asdict())


def _check_whole_history(engine: Engine, history: list[Row]) -> None:
    first, last = (NOON - 30 * DAY).date(), (NOON + 30 * DAY).date()
    own_rows = [row for row in history if row["key_id"] == "key-1"]
    with engine.connect() as connection:
        assert select_integrity(connection)[1] == outcomes_of(history)
        assert select_first_day(connection) == _first_day(history)
        assert select_first_day(connection, "key:key-1") == (_first_day(own_rows) if own_rows else None)
        every_key = select_key_usage(connection, first=first, last=last)
        own = select_key_usage(connection, first=first, last=last, key_id="key-1")
        days = select_day_usage(connection, first=first, last=last)
    assert {row[:4]: rounded(row.sums) for row in every_key} == key_days(history)
    assert own == [row for row in every_key if row.key_id == "key-1"]
    all_keys_as_one = key_days(row | {"key_id": ""} for row in history)
    assert {("", *row[:3]): rounded(row.sums) for row in days} == all_keys_as_one


def _first_day(history: list[Row]) -> object:
    return min(row["started_at"] for row in history).date()


def _empty(engine: Engine) -> None:
    later = "rollup_delta, outcome_usage, model_usage, latency_usage, key_presence"
    with engine.begin() as connection:
        connection.execute(text(f"TRUNCATE activity, {later}, {EARLIER}"))


EARLIER = "usage_rollup, model_rollup, key_seen, key_usage, latency_rollup"
