"""Activity is read newest first, filtered, page by page, without skipping or repeating a row."""

from __future__ import annotations

import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, event

from app.db.activity_pages import ActivityCursor, ActivityFilter, select_activity, stream_activity
from tests.db.rows import NOON, Row, insert_rows, make_row

DAY_S = 86_400


@pytest.fixture(scope="module")
def engine(file_engine: Engine) -> Engine:
    """An engine on a database shared by these tests, which only read."""
    return file_engine


@pytest.fixture(scope="module")
def rows(engine: Engine) -> list[Row]:
    """Two hundred rows over four days, forty of them in the same microsecond, inserted; newest first."""
    chance = random.Random(7)
    rows = [
        make_row(
            after_s=0 if number < 40 else chance.randrange(-2 * DAY_S, 2 * DAY_S),
            key_id=chance.choice(["key-1", "key-2", "env"]),
            gateway=chance.choice(["fireworks", "chutes", None]),
            model_served=chance.choice(["a", "b", None]),
            outcome=chance.choice(["ok", "ok", "client_gone", "rejected"]),
            endpoint=chance.choice(["/v1/chat/completions", "/v1/embeddings"]),
            stream=chance.random() < 0.5,
            duration_ms=chance.choice([None, 10.5, 2_000.0]),
            cost_usd=Decimal(number % 7).scaleb(-3),
        )
        for number in range(200)
    ]
    for row in rows:
        if row["outcome"] != "ok":
            row |= {"status": chance.choice([200, 429, 499, 503]), "error_type": chance.choice([None, "a_error"])}
    insert_rows(engine, rows)
    return sorted(rows, key=lambda row: (row["started_at"], row["request_id"]), reverse=True)


def test_pages_along_the_cursor_are_all_rows_newest_first(engine: Engine, rows: list[Row]) -> None:
    after, seen = None, []
    with engine.connect() as connection:
        while page := select_activity(connection, ActivityFilter(), after=after, limit=7):
            seen += _ids(page.rows)
            assert (page.end is None) is (len(seen) == len(rows))
            if page.end is None:
                break
            assert len(page.rows) == 7
            after = page.end
    assert seen == _ids(rows)


@pytest.mark.parametrize("page_rows", [1, 3, 200, 1000])
def test_an_export_has_every_row_once_for_any_page_size(engine: Engine, rows: list[Row], page_rows: int) -> None:
    assert _ids(stream_activity(engine.connect, ActivityFilter(), page_rows=page_rows)) == _ids(rows)


@pytest.mark.parametrize(
    "chosen",
    [
        {"key_id": "env"},
        {"gateway": "chutes"},
        {"key_id": "key-1", "gateway": "fireworks", "endpoint": "/v1/embeddings"},
        {"key_id": "unknown"},
        {"error_type": "a_error"},
        {"stream": False},
        {"stream": True, "gateway": "chutes"},
    ],
    ids=str,
)
def test_a_filter_selects_the_rows_with_its_values(engine: Engine, rows: list[Row], chosen: dict[str, Any]) -> None:
    wanted = [row for row in rows if all(row.get(name) == value for name, value in chosen.items())]
    assert _ids(stream_activity(engine.connect, ActivityFilter(**chosen), page_rows=11)) == _ids(wanted)


RANGES: list[tuple[dict[str, Any], Callable[[Row], bool]]] = [
    ({"outcomes": ("ok",)}, lambda row: row["outcome"] == "ok"),
    ({"outcomes": ("ok", "rejected")}, lambda row: row["outcome"] in {"ok", "rejected"}),
    ({"statuses": ("2xx",)}, lambda row: row["status"] == 200),
    ({"statuses": ("429", "5xx")}, lambda row: row["status"] in {429, 503}),
    ({"statuses": ("4xx",), "outcomes": ("ok", "rejected")}, lambda row: _is(row, {429, 499}, {"rejected"})),
    ({"min_duration_ms": 10.5, "max_duration_ms": 11}, lambda row: row["duration_ms"] == 10.5),
    ({"min_duration_ms": 10.6}, lambda row: row["duration_ms"] == 2_000),
    ({"min_cost_usd": 0.003, "max_cost_usd": 0.005}, lambda row: 3 <= row["cost_usd"] * 1000 <= 5),
    ({"max_cost_usd": 0}, lambda row: row["cost_usd"] == 0),
]


def _is(row: Row, statuses: set[int], outcomes: set[str]) -> bool:
    return row["status"] in statuses and row["outcome"] in outcomes


@pytest.mark.parametrize(("chosen", "is_wanted"), RANGES, ids=[str(chosen) for chosen, _ in RANGES])
def test_a_range_selects_the_rows_within_it_also_across_the_ends_of_searches(
    engine: Engine, rows: list[Row], chosen: dict[str, Any], is_wanted: Callable[[Row], bool]
) -> None:
    wanted, found, pages, after = [row for row in rows if is_wanted(row)], [], 0, None
    assert 0 < len(wanted) < len(rows)
    with engine.connect() as connection:
        while True:
            page = select_activity(connection, ActivityFilter(**chosen), after=after, limit=5, searched_rows=11)
            found, pages, after = [*found, *page.rows], pages + 1, page.end
            if after is None:
                break
    assert _ids(found) == _ids(wanted)
    # A filter without an index takes a page for each 11 rows that it searches; one with an index fills its pages.
    assert pages <= 1 + (
        len(rows) / 11 + len(wanted) / 5 if ActivityFilter(**chosen).is_searched() else len(wanted) / 5
    )


def test_a_page_searches_no_more_rows_than_it_should(engine: Engine, rows: list[Row]) -> None:
    with engine.connect() as connection:
        page = select_activity(connection, ActivityFilter(min_cost_usd=99), searched_rows=50)
        assert page.rows == [] and page.end == (rows[49]["started_at"], rows[49]["request_id"])
        page = select_activity(connection, ActivityFilter(min_cost_usd=99), after=page.end, searched_rows=151)
        assert page.rows == [] and page.end is None


def test_the_model_filter_uses_the_model_served_or_else_the_one_requested(engine: Engine, rows: list[Row]) -> None:
    served = [row for row in rows if row["model_served"] == "a"]
    neither = [row for row in rows if row["model_served"] is None]
    assert _ids(stream_activity(engine.connect, ActivityFilter(model="a"))) == _ids(served)
    assert _ids(stream_activity(engine.connect, ActivityFilter(model="example"))) == _ids(neither)


def test_a_time_range_includes_its_start_and_excludes_its_end(engine: Engine, rows: list[Row]) -> None:
    start, end = rows[150]["started_at"], NOON
    wanted = [row for row in rows if start <= row["started_at"] < end]
    assert wanted and _ids(stream_activity(engine.connect, ActivityFilter(start=start, end=end))) == _ids(wanted)


def test_an_export_holds_no_connection_while_its_reader_is_slow(engine: Engine, rows: list[Row]) -> None:
    export = stream_activity(engine.connect, ActivityFilter(), page_rows=10)
    next(export)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("wanted", [ActivityFilter(), ActivityFilter(model="a"), ActivityFilter(key_id="env")])
def test_a_page_after_a_cursor_reads_only_the_cursors_day_and_earlier(
    engine: Engine, rows: list[Row], wanted: ActivityFilter
) -> None:
    oldest = ActivityCursor(rows[-1]["started_at"], rows[-1]["request_id"])
    plan = _plan_of_select(engine, wanted, oldest)
    days = {row["started_at"].date() for row in rows}
    assert len(days) == 5
    assert [f"activity_p{day:%Y%m%d}" in plan for day in sorted(days)] == [True, False, False, False, False]


def _plan_of_select(engine: Engine, wanted: ActivityFilter, after: ActivityCursor) -> str:
    statements: list[tuple[str, Any]] = []

    def record(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        statements.append((statement, parameters))

    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", record)
        select_activity(connection, wanted, after=after)
        event.remove(connection, "before_cursor_execute", record)
        statement, parameters = statements[0]
        return "\n".join(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())


def _ids(rows: Any) -> list[Any]:
    return [row["request_id"] for row in rows]
