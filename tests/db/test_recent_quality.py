"""The quality of each model equals sums over its rows, whether they are folded or not."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product

from sqlalchemy import Engine

from app.db.engine import create_engine_for
from app.db.fold import fold_deltas
from app.db.histogram import histogram_quantiles_ms
from app.db.recent_quality import select_recent_quality
from tests.db.old_code import make_partitions
from tests.db.rows import Row, insert_rows, make_row

WINDOW = timedelta(minutes=30)


def make_rows(now: datetime) -> list[Row]:
    """Returns rows of two models at two providers, in and before the window, and some without a model."""
    rows = []
    for number, (gateway, model, minutes) in enumerate(
        product(["fireworks", "chutes"], ["a/M", "a/%_", None], [0, 7, 29, 33, 90])
    ):
        fails = number % 3 == 0
        rows.append(
            make_row(
                started_at=now - timedelta(minutes=minutes),
                gateway=gateway,
                model_served=model,
                outcome="upstream_error" if fails else "ok",
                error_type="upstream_error" if fails else None,
                ttft_ms=None if fails else 100.0 * (number + 1),
                tokens_per_second=None if fails else 10.0 + number,
                endpoint="/v1/messages" if number % 2 else "/v1/chat/completions",
            )
        )
    return rows


def check(engine: Engine, rows: list[Row], now: datetime) -> None:
    """Compares what is selected with the rows."""
    with engine.connect() as connection:
        found = select_recent_quality(connection, WINDOW)
    start = now.replace(second=0, microsecond=0) - WINDOW
    wanted = Counter[tuple[str, str, str, str]]()
    speeds: dict[tuple[str, str], float] = defaultdict(float)
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in rows:
        if row["started_at"] >= start and row["model_served"]:
            model = row["gateway"], row["model_served"]
            wanted[(*model, row["outcome"], row["error_type"] or "")] += 1
            if row["tokens_per_second"]:
                speeds[model] += row["completion_tokens"] * 1000 / row["tokens_per_second"]
            if row["ttft_ms"]:
                times[model].append(row["ttft_ms"])
    assert {row[:4]: row.requests for row in found.outcomes} == wanted and len(wanted) > 4
    measured: dict[tuple[str, str], float] = defaultdict(float)
    for sums in found.outcomes:
        measured[sums.gateway, sums.model] += sums.speed_ms
        assert sums.speed_tokens == (50 * sums.requests if sums.outcome == "ok" else 0)
    assert {model: round(ms, 3) for model, ms in measured.items()} == {
        model: round(speeds[model], 3) for model in measured
    }
    assert {row[:2] for row in found.first_tokens} == set(times)
    for row in found.first_tokens:
        (median,) = histogram_quantiles_ms(row.histogram, [0.5])
        exact = sorted(times[row[:2]])[(len(times[row[:2]]) - 1) // 2]
        assert median is not None and abs(median - exact) <= 0.05 * exact


def test_it_equals_sums_over_the_rows_before_between_and_after_folds(database_url: str) -> None:
    engine = create_engine_for(database_url)
    # No row is so near to the window's beginning that a minute which ends during the test would matter.
    now = datetime.now(UTC)
    rows = make_rows(now)
    make_partitions(engine, rows)
    insert_rows(engine, rows[::2])
    check(engine, rows[::2], now)
    fold_deltas(engine, min_age_s=0)
    check(engine, rows[::2], now)
    insert_rows(engine, rows[1::2])
    check(engine, rows, now)
    fold_deltas(engine, min_age_s=0)
    check(engine, rows, now)
    engine.dispose()
