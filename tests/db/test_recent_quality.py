"""The quality of each model equals sums over its rows and their attempts, whether they are folded or not."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

from sqlalchemy import Engine, text

from app.db.engine import create_engine_for
from app.db.fold import fold_deltas
from app.db.histogram import histogram_quantiles_ms
from app.db.recent_quality import select_recent_quality
from tests.db.old_code import insert_old, make_partitions
from tests.db.rows import Row, count, insert_rows, make_row

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
    """Compares the selected quality with the rows."""
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
    # No row is close enough to the window's start for a minute that ends during the test to matter.
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


TARGETS = [("fireworks", "a/M"), ("chutes", "a/M"), ("chutes", "b/M"), ("deepinfra", "a/M")]
CALLERS_FAULTS = (400, 413, 422)


def make_attempt(target: tuple[str, str], status: int | None, error: str | None, ms: float | None = 5.0) -> Row:
    """Returns an entry of a record's attempts."""
    more = {"tokens": None, "cost_usd": None}
    return {"provider": target[0], "model": target[1], "status": status, "error": error, "ms": ms} | more


def make_tried_row(chance: random.Random, now: datetime) -> Row:
    """Returns a row of a request that failed at some targets, at some of them twice, and ended at the last one."""
    *failing, last = chance.sample(TARGETS, chance.randint(1, len(TARGETS)))
    attempts = []
    for target in failing:
        failures = [(503, "upstream_error"), (None, "upstream_unreachable"), (404, "model_not_found")]
        failures += [(429, "rate_limit_exceeded"), (400, "context_length_exceeded"), (200, "upstream_error")]
        attempts += [make_attempt(target, *chance.choice(failures))] * chance.randint(1, 2)
        if chance.random() < 0.2:
            attempts[-1] = make_attempt(target, None, "model_not_found", ms=None)  # Not sent.
    served = chance.random() < 0.7
    attempts.append(make_attempt(last, *((200, None) if served else (500, "upstream_error"))))
    # A response may spell the model's name differently from the attempt.
    model = f"another form of {last[1]}" if last == TARGETS[0] else last[1]
    return make_row(
        started_at=now - timedelta(minutes=chance.choice([0, 3, 28, 32])),
        gateway=last[0],
        model_served=model,
        outcome="ok" if served else "upstream_error",
        attempts=attempts if len(attempts) > 1 or not served else [],
    )


def failed_before(row: Row) -> set[tuple[str, str]]:
    """Returns the targets at which a row's request failed before it ended at the last one."""
    tried = [
        (attempt["provider"], attempt["model"])
        for attempt in row["attempts"]
        if attempt["error"] and attempt["ms"] is not None and attempt["status"] not in CALLERS_FAULTS
    ]
    return set(tried) - {(last["provider"], last["model"]) for last in row["attempts"][-1:]}


def test_what_a_target_failed_counts_once_for_it_when_another_one_ended_it(engine: Engine) -> None:
    chance, now = random.Random(11), datetime.now(UTC)
    rows = [make_tried_row(chance, now) for _ in range(200)]
    recent = [row for row in rows if row["started_at"] > now - WINDOW]
    wanted = Counter(target for row in recent for target in failed_before(row))
    assert set(wanted) == set(TARGETS) and any(len(row["attempts"]) == 1 for row in recent)
    for start in range(0, len(rows), 20):
        insert_rows(engine, rows[start : start + 20])
    insert_rows(engine, rows[:50])  # A batch that is delivered again changes nothing.
    assert select_given_up(engine) == wanted

    fold_deltas(engine)  # The counts are too young to be merged.
    before = count(engine, "failed_attempt")
    make_older(engine, "created_at", "2 minutes")
    fold_deltas(engine)
    targets_by_minute = {(row["started_at"], target) for row in rows for target in failed_before(row)}
    assert count(engine, "failed_attempt") == len(targets_by_minute) < before
    assert select_given_up(engine) == wanted

    make_older(engine, "minute", "40 minutes")
    make_older(engine, "created_at", "2 minutes")
    fold_deltas(engine)
    kept = {pair for pair in targets_by_minute if pair[0] > now - timedelta(minutes=20)}
    assert count(engine, "failed_attempt") == len(kept) > 0


def test_attempts_in_any_other_form_count_for_nobody_and_cost_no_row(engine: Engine) -> None:
    now = datetime.now(UTC)
    other = {"provider": "chutes", "model": "a/M", "status": 503, "error": "upstream_error", "ms": 5.0}
    forms: list[Any] = [
        *(
            {name: value for name, value in other.items() if name != missing}
            for missing in other
            if missing != "status"
        ),
        *(other | {name: None} for name in other if name != "status"),
        *({"status": 503, "error": "upstream_error", "ms": 5.0}, {"status": 429, "error": "many", "requests": 9}),
        *("text", 7, None, [], {}, [other]),
    ]
    rows = [make_row(started_at=now, attempts=[form]) for form in forms]
    rows += [make_row(started_at=now, attempts=odd) for odd in ({}, other, "text", 7, None, [])]
    rows += [make_row(started_at=now, gateway=None, model_served=None, attempts=[other | {"model": "x" * 5_000}])]
    assert insert_rows(engine, rows) == len(rows)
    assert insert_old(engine, [make_row(started_at=now, attempts=[forms[-8]])]) == 1
    assert select_given_up(engine) == {("chutes", "x" * 300): 1}


def select_given_up(engine: Engine) -> Counter[tuple[str, str]]:
    """Returns the counts by target."""
    with engine.connect() as connection:
        found = select_recent_quality(connection, WINDOW)
    return Counter({(row.gateway, row.model): row.requests for row in found.given_up})


def make_older(engine: Engine, column: str, by: str) -> None:
    """Moves the times of all counts into the past."""
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE failed_attempt SET {column} = {column} - interval '{by}'"))
