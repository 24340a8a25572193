"""Statistics agree with SQL over the rows of activity, for every window and to the minute; unknown values are null."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, event, text

from app.config import ALL_GATEWAYS, load_settings
from app.db import get_engine
from app.db.fold import fold_deltas
from app.db.sums import Sums
from app.db.tables import OUTCOMES
from app.errors import BadRequest
from app.runtime import get_settings, use_settings
from app.services.providers import PROVIDERS
from app.services.reports import TIME_RANGES, AskedWindow, Owned, SplitBy, Stats, select_stats
from app.services.reports.series import Percentiles, SeriesStep
from app.services.reports.shares import MAX_SHARES, make_shares
from app.services.reports.splits import MAX_MODELS, OTHER_MODELS
from app.services.reports.stats import PERCENTILE_ERROR
from tests.db.rows import NOON, Row, insert_keys, insert_rows, make_row
from tests.support.postgres import Postgres
from tests.support.soak import FULL

DAY_S = 86_400
# In the middle of a minute, of an hour and of a day.
NOW = NOON + timedelta(minutes=17, seconds=33)
GATEWAYS = [*PROVIDERS, None]
UNPRICED = {"cost_kind": "unknown", "cost_usd": None}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Points this process's settings at the test's database."""
    yield from _with_database(database_url)


@pytest.fixture(scope="module")
def history_url(postgres: Postgres) -> Iterator[str]:
    """A database with 1,200 requests of every kind in the 45 days before NOW, most of them near NOW."""
    url = postgres.create_migrated_database()
    chance = random.Random(11)
    for engine in _with_database(url):
        insert_rows(engine, [_random_row(chance) for _ in range(800)])
        while fold_deltas(engine, min_age_s=0).folded:
            pass
        # These rows are still deltas.
        insert_rows(engine, [_random_row(chance) for _ in range(400)])
        _store_keys(engine)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def history(history_url: str) -> Engine:
    """Points this process's settings at that database, and leaves it unchanged for the next test."""
    if get_settings().database_url != history_url:
        use_settings(load_settings({"DATABASE_URL": history_url}))
    return get_engine()


def _with_database(url: str) -> Iterator[Engine]:
    use_settings(load_settings({"DATABASE_URL": url}))
    yield get_engine()
    use_settings(None)


def _store_keys(engine: Engine) -> None:
    """Stores the keys of alice, who is in the group team, and of bob, who is in none; other keys are not stored."""
    insert_keys(engine, "key-1", "key-2", "unused")
    with engine.begin() as connection:
        connection.execute(
            text("""INSERT INTO subject (id, kind, name, group_id) VALUES ('g', 'group', 'team', NULL),
                ('a', 'holder', 'alice', 'g'), ('b', 'holder', 'bob', NULL)""")
        )
        for key, holder in (("key-1", "a"), ("key-2", "b"), ("unused", "a")):
            values = {"holder": holder, "key": key}
            connection.execute(text("UPDATE api_key SET holder_id = :holder WHERE id = :key"), values)


def _random_row(chance: random.Random) -> Row:
    kind = chance.choice(["exact", "exact", "estimated", "unknown"])
    outcome = chance.choice(["ok"] * 8 + list(OUTCOMES))
    refused = outcome == "rejected"
    unmeasured = chance.random() < 0.25
    return make_row(
        after_s=17 * 60
        + 30
        - chance.choice([0, 60, 3_600, DAY_S, 7 * DAY_S, 30 * DAY_S, 45 * DAY_S]) * chance.random(),
        key_id=chance.choice(["key-1", "key-2", "key-3", "env"]),
        endpoint=chance.choice(["/v1/chat/completions", "/v1/embeddings"]),
        gateway=None if refused else chance.choice(GATEWAYS),
        model_served=None if refused else chance.choice(["a", "b", "c", "d"]),
        outcome=outcome,
        error_type=None if outcome == "ok" else chance.choice([None, "upstream_error", "rate_limit_error"]),
        prompt_tokens=None if unmeasured else chance.randrange(1, 5_000),
        completion_tokens=None if unmeasured else chance.choice([None, chance.randrange(1, 900)]),
        cached_tokens=None if unmeasured else 20,
        cost_kind="unknown" if refused else kind,
        cost_usd=None if refused or kind == "unknown" else Decimal(chance.randrange(10**12)).scaleb(-15),
        duration_ms=chance.choice([None, chance.lognormvariate(7, 2)]),
        ttft_ms=chance.choice([None, chance.lognormvariate(5, 2)]),
        tokens_per_second=chance.choice([None, chance.uniform(5, 200)]),
    )


COUNTED = """
    SELECT count(*) AS total_requests,
        count(*) FILTER (WHERE outcome = 'ok') AS successful_requests,
        count(*) FILTER (WHERE outcome <> 'ok') AS failed_requests,
        coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)), 0) AS total_tokens,
        coalesce(sum(prompt_tokens), 0) AS prompt_tokens,
        coalesce(sum(completion_tokens), 0) AS completion_tokens,
        coalesce(sum(cached_tokens), 0) AS cached_tokens,
        coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'exact'), 0) AS total_cost,
        coalesce(sum(cost_usd) FILTER (WHERE cost_kind = 'estimated'), 0) AS estimated_cost,
        count(*) FILTER (WHERE cost_kind = 'unknown' AND outcome <> 'rejected') AS unpriced_requests,
        count(DISTINCT key_id) AS unique_users,
        count(DISTINCT model_served) AS unique_models,
        avg(cost_usd) AS avg_cost_per_request,
        sum(completion_tokens) FILTER (WHERE tokens_per_second IS NOT NULL) /
            sum(completion_tokens / tokens_per_second) AS avg_speed_tokens_per_sec
    FROM activity WHERE {chosen}"""


# Selections of requests: gateway, key, model and endpoint.
CHOSEN: list[tuple[str, str | None, str | None, str | None]] = [
    *((gateway, None, None, None) for gateway in (ALL_GATEWAYS, *PROVIDERS)),
    (ALL_GATEWAYS, "key-1", None, None),
    (ALL_GATEWAYS, None, "a", None),
    (ALL_GATEWAYS, None, None, "/v1/embeddings"),
    ("fireworks", "env", None, "/v1/chat/completions"),
    ("fireworks", None, "b", "/v1/chat/completions"),
]


@pytest.mark.long_form
@pytest.mark.parametrize(
    ("time_range", "gateway", "key_id", "model", "endpoint"),
    # Every selection with one window, and every window with one selection; `make soak` tests all pairs.
    [
        (time_range, *chosen)
        for time_range in TIME_RANGES
        for chosen in CHOSEN
        if FULL or time_range == "7d" or chosen == CHOSEN[0]
    ],
)
def test_statistics_agree_with_sql_over_the_rows(
    history: Engine, gateway: str, key_id: str | None, model: str | None, endpoint: str | None, time_range: str
) -> None:
    stats = select_stats(gateway, time_range, NOW, key_id=key_id, model=model, endpoint=endpoint)
    assert (stats.scope, stats.key) == ("key" if key_id else "all", key_id)
    assert (stats.model, stats.endpoint) == (model, endpoint)
    chosen = _Chosen(history, stats)
    counted = chosen.select(COUNTED)[0]
    assert counted["total_requests"] > (5 if (key_id or model) and endpoint else 20)
    if model is not None:
        assert stats.unique_users is None and counted.pop("unique_users") > 1
    for name, value in counted.items():
        assert float(getattr(stats, name)) == pytest.approx(
            float(value), rel=1e-3 if name.startswith("avg") else 1e-12
        ), name
    assert stats.avg_tokens_per_request == round(stats.total_tokens / stats.total_requests, 2)
    _check_groups(stats, chosen)
    _check_percentiles(stats, chosen.rows)
    _check_series(stats, chosen)


# Start and end of a window in days before NOW, its step, and the step of its series in seconds.
WINDOWS: list[tuple[float, float, str | None, int]] = [
    (0.02, 0, None, 60),
    (0.9, 0.3, "5m", 300),
    (2.5, 1, None, 3_600),
    (6.3, 0, "1h", 3_600),
    (29, 3, "15m", 0),
    (30, 20, "6h", 21_600),
    (44, 33, None, 86_400),
    (44, 0, "6h", 0),
]


@pytest.mark.long_form
@pytest.mark.parametrize(
    ("key_id", "gateway"), [(None, ALL_GATEWAYS), ("key-1", ALL_GATEWAYS), (None, "fireworks")][: 3 if FULL else 1]
)
@pytest.mark.parametrize(("since", "until", "step", "step_s"), WINDOWS)
def test_a_window_between_two_times_agrees_with_sql(
    history: Engine, key_id: str | None, gateway: str, since: float, until: float, step: str | None, step_s: int
) -> None:
    start, end = (NOW - timedelta(days=days) for days in (since, until))
    asked = AskedWindow(start=start, end=end if until else None, step=step)
    if not step_s:
        with pytest.raises(BadRequest, match="step") as caught:
            select_stats(gateway, asked, NOW, key_id=key_id)
        assert caught.value.param == "step"
        return
    stats = select_stats(gateway, asked, NOW, key_id=key_id, top_models=2)
    assert (stats.time_range, stats.series_step_s) == (None, step_s)
    # Windows are rounded outwards, by at most a day, and by less than a minute where minutes are kept.
    most = timedelta(minutes=1) if since < 2 or (since < 31 and not key_id) else timedelta(days=1)
    assert start - most < stats.start <= start and end <= stats.end < end + max(most, timedelta(minutes=1))
    chosen = _Chosen(history, stats)
    counted = chosen.select(COUNTED)[0]
    for name in ("total_requests", "failed_requests", "total_tokens", "total_cost", "estimated_cost"):
        assert getattr(stats, name) == counted[name]
    _check_groups(stats, chosen)
    _check_series(stats, chosen)
    _check_models_of_steps(stats, chosen)


def _check_models_of_steps(stats: Stats, chosen: _Chosen) -> None:
    top = [row.model for row in stats.models if row.model][:2]
    length = timedelta(seconds=stats.series_step_s)
    for step in stats.series:
        rows = [row for row in chosen.rows if step.start <= row["started_at"] < step.start + length]
        names = [row["model_served"] for row in rows]
        expected = Counter(name if name in top or name is None else OTHER_MODELS for name in names)
        assert {row.model: row.requests for row in step.models} == expected
        assert [row.model == OTHER_MODELS for row in step.models] == sorted(
            row.model == OTHER_MODELS for row in step.models
        )
        for name in ("requests", "errors", "tokens", "cost", "estimated_cost"):
            assert sum(getattr(row, name) or 0 for row in step.models) == (getattr(step, name) or 0)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        (AskedWindow(end=NOW), "to"),
        (AskedWindow(start=NOW, end=NOW), "from"),
        (AskedWindow(start=NOW + timedelta(days=1), end=NOW + timedelta(days=2)), "from"),
        (AskedWindow(time_range="30d", step="15m"), "step"),
        (AskedWindow(time_range="all", step="1h"), "step"),
    ],
)
def test_a_window_that_cannot_be_is_refused(history: Engine, asked: AskedWindow, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        select_stats(ALL_GATEWAYS, asked, NOW)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "window", [AskedWindow(time_range="24h"), AskedWindow(start=NOW - timedelta(days=6), step="1h")]
)
@pytest.mark.parametrize(("top_models", "split_by"), [(0, None), (5, None), (5, "holder")])
def test_statistics_take_a_fixed_number_of_statements_and_read_no_record(
    history: Engine, window: AskedWindow, top_models: int, split_by: SplitBy | None
) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(history, "before_cursor_execute", note)
    try:
        select_stats(ALL_GATEWAYS, window, NOW, top_models=top_models, split_by=split_by)
    finally:
        event.remove(history, "before_cursor_execute", note)
    # The time, which is given here, would take one more statement.
    assert len(statements) == 4 + (top_models > 0) + 3 * (split_by is not None)
    assert not any(re.search(r"\bactivity\b", statement) for statement in statements)


@pytest.mark.parametrize(
    ("name", "time_range"),
    [("holder", "1h"), ("all", "24h"), ("holder", "7d"), ("all", "30d"), ("group", "all"), ("none", "all")],
)
def test_the_shares_of_keys_holders_and_groups_agree_with_sql(history: Engine, name: str, time_range: str) -> None:
    keys = {"holder": ("key-1", "key-2"), "group": ("key-1",), "all": None, "none": ()}[name]
    owned = None if keys is None else Owned("group" if name == "group" else "holder", "name", keys)
    endpoint = "/v1/embeddings" if name == "all" else None
    shares = {
        by: select_stats(ALL_GATEWAYS, time_range, NOW, owned=owned, split_by=by, endpoint=endpoint)
        for by in ("key", "holder", "group")
    }
    stats = shares["key"]
    assert (stats.scope, stats.split_by) == ("all" if owned is None else owned.kind, "key")
    assert (stats.holder, stats.group) == tuple(
        owned and owned.kind == kind and "name" or None for kind in ("holder", "group")
    )
    chosen = _Chosen(history, stats, keys)
    counted = chosen.select(COUNTED)[0]
    assert counted["total_requests"] > (5 if keys != () else -1)
    for column in ("total_requests", "total_tokens", "total_cost", "unique_users", "unpriced_requests"):
        assert getattr(stats, column) == counted[column], column
    if keys != ():
        _check_groups(stats, chosen)
        _check_percentiles(stats, chosen.rows)
    _check_series(stats, chosen) if stats.start else None
    owners = {"key-1": ("alice", "team"), "key-2": ("bob", None)}
    by_key = chosen.counts("key_id")
    names = {
        "key": lambda key: (key, key if key in owners else None),
        "holder": lambda key: (
            {"alice": "a", "bob": "b"}.get(owners.get(key, (None,))[0] or ""),
            owners.get(key, (None,))[0],
        ),
        "group": lambda key: ("g", "team") if key == "key-1" else (None, None),
    }
    for by, each in shares.items():
        expected = Counter[Any]()
        for key, requests in by_key.items():
            expected[names[by](key)] += requests
        assert {(share.id, share.name): share.requests for share in each.split} == expected, by
        assert sum(share.keys for share in each.split) == len(by_key)
        for column in ("total_tokens", "total_cost", "estimated_cost", "unpriced_requests"):
            assert sum(getattr(share, column) or 0 for share in each.split) == getattr(stats, column)
        costs = [(share.total_cost or 0) + (share.estimated_cost or 0) for share in each.split]
        assert costs == sorted(costs, reverse=True)


def test_more_shares_than_fit_are_summed_in_one() -> None:
    sums = {f"key-{number}": Sums(requests=1, cost_exact=Decimal(number)) for number in range(MAX_SHARES + 3)}
    shares = make_shares("key", sums, {})
    assert [share.id for share in shares[:2]] == [f"key-{MAX_SHARES + 2}", f"key-{MAX_SHARES + 1}"]
    rest = shares[MAX_SHARES]
    assert len(shares) == MAX_SHARES + 1 and (rest.id, rest.name) == (None, "other")
    assert (rest.keys, rest.requests, rest.total_cost) == (3, 3, Decimal(3))


def _check_groups(stats: Stats, chosen: _Chosen) -> None:
    assert {name: count for name, count in stats.outcomes.items() if count} == chosen.counts("outcome")
    assert set(stats.outcomes) == set(OUTCOMES)
    errors = {name: count for name, count in chosen.counts("error_type").items() if name is not None}
    assert stats.errors == errors
    assert {row.endpoint: row.requests for row in stats.endpoints} == chosen.counts("endpoint")
    assert {row.gateway: row.requests for row in stats.gateways} == chosen.counts("gateway")
    assert {row.model: row.requests for row in stats.models} == chosen.counts("model_served")
    assert stats.models[0].requests == max(chosen.counts("model_served").values())
    named = [row.model for row in stats.models if row.model]
    assert stats.top_model == named[0]
    for name in ("total_tokens", "total_cost", "estimated_cost", "cached_tokens"):
        for groups in (stats.models, stats.endpoints, stats.gateways):
            assert sum(getattr(row, name) or 0 for row in groups) == getattr(stats, name)


def _check_percentiles(stats: Stats | SeriesStep, rows: Sequence[Row]) -> None:
    measured = [row for row in rows if row["outcome"] not in {"rejected", "lost"}]
    for name in ("ttft_ms", "duration_ms"):
        times = sorted(row[name] for row in measured if row[name] is not None)
        for label, quantile in {"p50": 0.5, "p95": 0.95, "p99": 0.99}.items():
            exact = times[int(quantile * (len(times) - 1))] if times else None
            value = getattr(getattr(stats, name), label)
            assert value is exact is None or value == pytest.approx(exact, rel=PERCENTILE_ERROR)


def _check_series(stats: Stats, chosen: _Chosen) -> None:
    step = timedelta(seconds=stats.series_step_s)
    starts = [row.start for row in stats.series]
    assert starts == [starts[0] + number * step for number in range(len(starts))]
    assert starts[0] <= stats.start < starts[0] + step and starts[-1] < stats.end <= starts[-1] + step
    totals = {"requests": "total_requests", "tokens": "total_tokens", "cost": "total_cost"}
    same = ("prompt_tokens", "completion_tokens", "cached_tokens")
    for name, total in (totals | dict(zip(same, same, strict=True))).items():
        assert sum(getattr(row, name) or 0 for row in stats.series) == getattr(stats, total)
    rows_of: dict[int, list[Row]] = defaultdict(list)
    for row in chosen.rows:
        rows_of[(row["started_at"] - starts[0]) // step].append(row)
    for number, shown in enumerate(stats.series):
        rows = rows_of[number]
        assert shown.outcomes == Counter(row["outcome"] for row in rows)
        assert (shown.requests, shown.errors) == (len(rows), sum(row["outcome"] != "ok" for row in rows))
        _check_percentiles(shown, rows)


class _Chosen:
    """The rows of activity that statistics are about.

    Attributes:
        rows: the columns of each row by which the statistics are grouped and ordered.
    """

    def __init__(self, engine: Engine, stats: Stats, keys: Sequence[str] | None = None) -> None:
        self._engine = engine
        self._where = """started_at >= :start AND started_at < :end AND (:gateway = 'all' OR gateway = :gateway)
            AND coalesce(key_id = :key, true) AND coalesce(endpoint = :endpoint, true)
            AND (CAST(:model AS text) IS NULL OR model_served = :model)
            AND coalesce(key_id = ANY (CAST(:keys AS text[])), true)"""
        names = ("start", "end", "gateway", "key", "model", "endpoint")
        self._values = {name: getattr(stats, name) for name in names} | {"keys": None if keys is None else list(keys)}
        columns = "key_id, started_at, outcome, error_type, endpoint, gateway, model_served, ttft_ms, duration_ms"
        self.rows = self.select(f"SELECT {columns} FROM activity WHERE {{chosen}}")

    def select(self, sql: str) -> list[Row]:
        with self._engine.connect() as connection:
            rows = connection.execute(text(sql.format(chosen=self._where)), self._values)
            return [dict(row) for row in rows.mappings()]

    def counts(self, column: str) -> Counter[str | None]:
        return Counter(row[column] for row in self.rows)


@pytest.mark.parametrize("time_range", ["1h", "24h", "7d", "30d"])
def test_a_window_has_its_length_to_the_minute(engine: Engine, time_range: str) -> None:
    length_s = {"1h": 3_600, "24h": DAY_S, "7d": 7 * DAY_S, "30d": 30 * DAY_S}[time_range]
    end_s = 18 * 60  # The end of the minute in which NOW lies.
    for after_s in (end_s - length_s - 0.001, end_s - length_s, end_s - 0.001, end_s):
        insert_rows(engine, [make_row(after_s=after_s)])
    stats = select_stats("fireworks", time_range, NOW)
    assert stats.total_requests == 2
    assert stats.start == NOON + timedelta(seconds=end_s - length_s)
    assert stats.end - stats.start == timedelta(seconds=length_s)


@pytest.mark.parametrize("time_range", ["1h", "24h", "7d", "30d"])
def test_a_long_window_of_a_key_begins_on_a_whole_hour(engine: Engine, time_range: str) -> None:
    length = TIME_RANGES[time_range].length
    begin = NOON + timedelta(minutes=18) - length
    if time_range in {"7d", "30d"}:
        begin -= timedelta(minutes=18)
    for away in (timedelta(milliseconds=-1), timedelta(0)):
        insert_rows(engine, [make_row(started_at=begin + away, key_id=key) for key in ("key-1", "key-2")])
    fold_deltas(engine, min_age_s=0)
    stats = select_stats("all", time_range, NOW, key_id="key-1")
    assert (stats.start, stats.total_requests, stats.unique_users) == (begin, 1, 1)


def test_a_window_without_requests_is_known_to_be_empty(engine: Engine) -> None:
    for time_range in TIME_RANGES:
        stats = select_stats("chutes", time_range, NOW)
        assert [getattr(stats, name) for name in ("total_requests", "total_tokens", "total_cost", "unique_users")] == [
            0
        ] * 4
        assert stats.ttft_ms == Percentiles(None, None, None)
        averages = ("avg_speed_tokens_per_sec", "avg_tokens_per_request", "avg_cost_per_request", "top_model")
        assert [getattr(stats, name) for name in averages] == [None] * 4
        assert stats.models == [] and not any(row.requests for row in stats.series)


def test_unknown_costs_are_null_and_counted(engine: Engine) -> None:
    insert_rows(engine, [make_row(**UNPRICED) for _ in range(3)])
    stats = select_stats("all", "1h", NOW)
    assert stats.total_requests == stats.unpriced_requests == 3
    assert stats.total_cost is stats.estimated_cost is stats.avg_cost_per_request is None
    assert stats.models[0].total_cost is None
    assert {row.cost for row in stats.series if row.requests} == {None}
    assert {row.cost for row in stats.series if not row.requests} == {0}


def test_exact_estimated_and_unknown_costs_stay_apart(engine: Engine) -> None:
    estimated = make_row(cost_kind="estimated", cost_usd=Decimal("0.5"))
    insert_rows(engine, [make_row(cost_usd=Decimal("1.25")), make_row(cost_usd=Decimal(2)), estimated])
    insert_rows(engine, [make_row(**UNPRICED)])
    stats = select_stats("all", "1h", NOW)
    assert (stats.total_cost, stats.estimated_cost, stats.unpriced_requests) == (
        Decimal("3.25"),
        Decimal("0.5"),
        1,
    )
    assert stats.avg_cost_per_request == Decimal("1.25")


def test_unknown_tokens_are_null(engine: Engine) -> None:
    unknown = {"prompt_tokens": None, "completion_tokens": None, "cached_tokens": None, "tokens_per_second": None}
    insert_rows(engine, [make_row(usage_source="none", **unknown, **UNPRICED)])
    stats = select_stats("all", "1h", NOW)
    names = ("total_tokens", "prompt_tokens", "completion_tokens", "cached_tokens", "avg_tokens_per_request")
    assert [getattr(stats, name) for name in names] == [None] * 5


def test_more_than_a_hundred_models_are_summed_in_one_entry(engine: Engine) -> None:
    rows = [make_row(model_served=f"model-{number}") for number in range(MAX_MODELS + 7)]
    rows += [make_row(model_served=f"model-{number}") for number in range(50)]
    rows += [make_row(model_served=None, outcome="upstream_error", **UNPRICED) for _ in range(3)]
    insert_rows(engine, rows)
    stats = select_stats("all", "1h", NOW)
    assert len(stats.models) == MAX_MODELS + 2 and stats.unique_models == MAX_MODELS + 7
    assert [(row.model, row.models, row.requests) for row in stats.models[:2]] == [(None, 0, 3), ("model-0", 1, 2)]
    others = stats.models[-1]
    assert (others.model, others.models, others.requests, others.errors) == (OTHER_MODELS, 7, 7, 0)
    assert others.completion_tokens == 7 * 50 and others.total_cost == 7 * Decimal("0.000123456789012")
    assert sum(row.requests for row in stats.models) == stats.total_requests == MAX_MODELS + 7 + 50 + 3


def test_a_rejected_request_is_not_unpriced(engine: Engine) -> None:
    insert_rows(engine, [make_row(outcome="rejected", model_served=None, gateway=None, **UNPRICED)])
    stats = select_stats("all", "1h", NOW)
    assert (stats.failed_requests, stats.unpriced_requests, stats.total_cost) == (1, 0, 0)
    assert stats.top_model is None and stats.unique_models == 0


def test_a_request_without_a_gateway_counts_only_for_all_of_them(engine: Engine) -> None:
    insert_rows(engine, [make_row(outcome="rejected", model_served=None, gateway=None, **UNPRICED), make_row()])
    counts = {name: select_stats(name, "1h", NOW).total_requests for name in (ALL_GATEWAYS, "fireworks", "chutes")}
    assert counts == {ALL_GATEWAYS: 2, "fireworks": 1, "chutes": 0}
