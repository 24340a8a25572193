"""The rollups equal the sums over the rows, for any history in any batches, although batches are sent again."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from app.db.activity import insert_activity
from app.db.engine import create_engine_for
from app.db.histogram import histogram_quantile_ms
from app.db.rollups import (
    Sums,
    Usage,
    select_first_day,
    select_key_usage,
    select_outcome_counts,
    select_usage,
    sum_up,
)
from app.db.tables import OUTCOMES
from tests.db.rows import NOON, Row, encode, make_row
from tests.support.postgres import Postgres

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)

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
        model_requested=draw(st.sampled_from([None, "x", "y"])),
        model_served=draw(st.sampled_from([None, "X"])),
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
def engine(postgres: Postgres, migrated_template: str) -> Iterator[Engine]:
    """One database for all examples; each example empties it."""
    url = postgres.create_database(template=migrated_template)
    engine = create_engine_for(url)
    yield engine
    engine.dispose()
    postgres.drop_database(url)


# Each example runs some twenty statements.
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rollups_equal_a_sum_over_the_rows_after_any_replays(engine: Engine, data: st.DataObject) -> None:
    _empty(engine)
    history = data.draw(st.lists(rows(), min_size=1, max_size=25))
    batches = data.draw(st.lists(st.lists(st.sampled_from(history), max_size=12), max_size=8))
    for batch in [*batches, history]:
        insert_activity(engine, encode(batch))
    step = data.draw(st.sampled_from([MINUTE, 5 * MINUTE, HOUR, 6 * HOUR, DAY, 7 * DAY]))
    gateway = data.draw(st.sampled_from([None, "fireworks", "chutes"]))
    start, end = sorted(NOON + data.draw(AFTER_S) // 60 * MINUTE for _ in range(2))
    for window in [(start, end), (NOON - 30 * DAY, NOON + 30 * DAY)]:
        with engine.connect() as connection:
            usage = select_usage(connection, start=window[0], end=window[1], step=step, gateway=gateway)
        chosen = [row for row in history if _is_in(row, window, gateway)]
        _check_usage(usage, chosen, step)
    _check_whole_history(engine, history)


def _check_usage(usage: Usage, chosen: list[Row], step: timedelta) -> None:
    by_outcome, by_model, by_step = defaultdict(list), defaultdict(list), defaultdict(list)
    for row in chosen:
        by_outcome[row["outcome"], row["error_type"] or ""].append(_sums(row))
        by_model[(_model(row),)].append(_sums(row))
        by_step[_floor(row["started_at"], step), row["outcome"]].append(_sums(row))
    assert {row[:2]: _rounded(row.sums) for row in usage.outcomes} == _totals(by_outcome)
    assert {row[:1]: _rounded(row.sums) for row in usage.models} == _totals(by_model)
    assert {row[:2]: _rounded(row.sums) for row in usage.series} == _totals(by_step)
    assert [row.start for row in usage.series] == sorted(row.start for row in usage.series)
    numbers = [row.sums.requests for row in usage.models]
    assert numbers == sorted(numbers, reverse=True)
    assert usage.keys == len({row["key_id"] for row in chosen})
    for metric in ["ttft", "duration"]:
        _check_quantiles(usage.histograms.get(metric, {}), chosen, f"{metric}_ms")


def _check_quantiles(counts: dict[int, int], chosen: list[Row], column: str) -> None:
    timed = [row for row in chosen if row["outcome"] not in {"rejected", "lost"}]
    values = sorted(row[column] for row in timed if row[column] is not None)
    assert sum(counts.values()) == len(values)
    for quantile in [0.0, 0.5, 0.95, 0.99, 1.0] if values else []:
        exact = values[int(quantile * (len(values) - 1))]
        # Times below a hundredth of a millisecond are counted as a hundredth.
        assert histogram_quantile_ms(counts, quantile) == pytest.approx(max(exact, 0.01), rel=0.05)


def _check_whole_history(engine: Engine, history: list[Row]) -> None:
    by_key = defaultdict(list)
    for row in history:
        key = (row["key_id"], row["started_at"].date(), row["gateway"] or "", _model(row))
        by_key[key].append(_sums(row))
    first, last = (NOON - 30 * DAY).date(), (NOON + 30 * DAY).date()
    with engine.connect() as connection:
        assert select_outcome_counts(connection) == Counter(row["outcome"] for row in history)
        assert select_first_day(connection) == min(row["started_at"] for row in history).date()
        all_keys = select_key_usage(connection, first=first, last=last)
        own = select_key_usage(connection, first=first, last=last, key_id="key-1")
    assert {row[:4]: _rounded(row.sums) for row in all_keys} == _totals(by_key)
    assert own == [row for row in all_keys if row.key_id == "key-1"]


def _sums(row: Row) -> Sums:
    speed, tokens, cost = row["tokens_per_second"], row["completion_tokens"], row["cost_usd"]
    has_speed = speed is not None and speed >= 0.001 and bool(tokens)
    return Sums(
        requests=1,
        ok_requests=int(row["outcome"] == "ok"),
        prompt_tokens=row["prompt_tokens"] or 0,
        completion_tokens=tokens or 0,
        cached_tokens=row["cached_tokens"] or 0,
        reasoning_tokens=row["reasoning_tokens"] or 0,
        cost_exact=cost if row["cost_kind"] == "exact" else Decimal(0),
        cost_estimated=cost if row["cost_kind"] == "estimated" else Decimal(0),
        unpriced_requests=int(row["cost_kind"] == "unknown" and row["outcome"] != "rejected"),
        speed_tokens=tokens if has_speed else 0,
        speed_ms=tokens * 1000 / speed if has_speed else 0.0,
    )


def _model(row: Row) -> str:
    return str(row["model_served"] or "")


def _totals(groups: dict[Any, list[Sums]]) -> dict[Any, Sums]:
    return {key: _rounded(sum_up(sums)) for key, sums in groups.items()}


def _rounded(sums: Sums) -> Sums:
    # The last digits of a sum of doubles depend on their order; all other sums are exact.
    return sums._replace(speed_ms=float(f"{sums.speed_ms:.9g}"))


def _is_in(row: Row, window: tuple[datetime, datetime], gateway: str | None) -> bool:
    return window[0] <= row["started_at"] < window[1] and gateway in {None, row["gateway"]}


def _floor(moment: datetime, step: timedelta) -> datetime:
    return moment - (moment - datetime(2000, 1, 1, tzinfo=UTC)) % step


def _empty(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE activity, usage_rollup, model_rollup, key_seen, key_usage, latency_rollup"))
