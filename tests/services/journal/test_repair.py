"""A row that PostgreSQL refuses is repaired: its good values stay, the others are removed and named."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from app.config import MAX_NAME_CHARACTERS
from app.db import create_engine_for
from app.db.activity import UnacceptableRows, insert_activity
from app.db.activity_pages import ActivityFilter, select_activity
from app.db.clock import Clocks
from app.db.tables import activity
from app.services.journal.record import make_request_id
from app.services.journal.repair import repair_row
from tests.db.rows import NOON, encode, make_row
from tests.support.postgres import Postgres

CLOCKS = Clocks(database=NOON, host=NOON)

ATTEMPT = {
    "provider": "chutes",
    "model": "a/M",
    "status": 503,
    "error": "upstream_error",
    "ms": 5.5,
    "tokens": 7,
    "cost_usd": "0.000001",
}


@pytest.fixture(scope="module")
def engine(postgres: Postgres) -> Iterator[Engine]:
    """A database shared by these tests, each of which uses its own row."""
    url = postgres.create_migrated_database()
    engine = create_engine_for(url)
    yield engine
    engine.dispose()
    postgres.drop_database(url)


def _content(**changes: Any) -> bytes:
    return encode([make_row(**changes)])[0]


def _store(engine: Engine, content: bytes, clocks: Clocks = CLOCKS) -> dict[str, Any]:
    """Inserts the row, repaired, and returns it as the database has it."""
    repaired = json.loads(repair_row(content, clocks).content)
    assert insert_activity(engine, [json.dumps(repaired).encode()]) == 1
    with engine.connect() as connection:
        rows = select_activity(connection, ActivityFilter(), limit=10_000).rows
    (row,) = [row for row in rows if str(row["request_id"]) == repaired["request_id"]]
    return row


UNKNOWN_COST = {"cost_usd": None, "cost_kind": "unknown"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model_requested": "nul \x00 character"}, {"model_requested": "nul \ufffd character"}),
        ({"finish_reason": "half \ud83d"}, {"finish_reason": "half ?"}),
        ({"prompt_tokens": -1}, {"prompt_tokens": None, "completion_tokens": 50, **UNKNOWN_COST}),
        ({"prompt_tokens": 2**63}, {"prompt_tokens": None, **UNKNOWN_COST}),
        ({"completion_tokens": 10**12 + 1}, {"completion_tokens": None, "prompt_tokens": 100, **UNKNOWN_COST}),
        ({"completion_tokens": 10**30}, {"completion_tokens": None, **UNKNOWN_COST}),
        ({"cached_tokens": 3.5}, {"cached_tokens": None, "completion_tokens": 50, **UNKNOWN_COST}),
        ({"reasoning_tokens": "n/a"}, {"reasoning_tokens": None, **UNKNOWN_COST}),
        ({"duration_ms": -0.5}, {"duration_ms": None, "ttft_ms": 500.0}),
        ({"ttft_ms": 1e12}, {"ttft_ms": None}),
        ({"tokens_per_second": float("inf")}, {"tokens_per_second": None}),
        ({"tokens_per_second": float("nan")}, {"tokens_per_second": None}),
        ({"longest_gap_ms": 10**400}, {"longest_gap_ms": None}),
        ({"cost_usd": "-0.1"}, UNKNOWN_COST),
        ({"cost_usd": 10**20}, UNKNOWN_COST),
        ({"cost_usd": "Infinity"}, UNKNOWN_COST),
        ({"cost_kind": "unknown"}, UNKNOWN_COST),
        ({"cost_usd": None}, UNKNOWN_COST),
        ({"outcome": "fine"}, {"outcome": "lost"}),
        ({"status": None}, {"status": 500}),
        ({"status": "teapot"}, {"status": 500}),
        ({"upstream_status": 2**31}, {"upstream_status": None}),
        ({"bytes_out": 2**63}, {"bytes_out": None}),
        ({"stream": "perhaps"}, {"stream": False}),
        ({"key_id": None}, {"key_id": "unknown"}),
        ({"price_date": "2026-02-30"}, {"price_date": None}),
        (
            {"attempts": [ATTEMPT | {"error": "\x00", "ms": float("nan"), "status": [1]}, ATTEMPT, 7]},
            {"attempts": [ATTEMPT | {"error": "\ufffd", "ms": None, "status": None}, ATTEMPT]},
        ),
        (
            {"attempts": [ATTEMPT | {"model": "x" * 5_000, "error": "\x00", "tokens": 10**50}] * 30},
            {"attempts": [ATTEMPT | {"model": "x" * MAX_NAME_CHARACTERS, "error": "\ufffd", "tokens": None}] * 10},
        ),
        ({"attempts": {"status": float("nan")}}, {"attempts": None}),
        ({"started_at": "yesterday noon", "request_id": uuid.uuid4()}, {"started_at": NOON}),
        ({"started_at": "infinity", "request_id": uuid.uuid4()}, {"started_at": NOON}),
        ({"started_at": None, "request_id": uuid.uuid4()}, {"started_at": NOON}),
    ],
)
def test_a_refused_value_is_removed_and_named_and_the_others_stay(
    engine: Engine, change: dict[str, Any], expected: dict[str, Any]
) -> None:
    content = _content(**change)
    with pytest.raises(UnacceptableRows):
        insert_activity(engine, [content])
    row = _store(engine, content)
    original = make_row()
    untouched = {name: original[name] for name in original.keys() - change.keys() - expected.keys() - {"request_id"}}
    assert {name: row[name] for name in untouched} == untouched
    assert {name: row[name] for name in expected} == expected
    assert set(change) - {"request_id"} <= set(row["repaired"].split(", ")) | set(UNKNOWN_COST)


def test_an_id_that_is_none_is_replaced_by_the_same_one_each_time(engine: Engine) -> None:
    content = _content(request_id="not-a-uuid")
    assert _store(engine, content)["repaired"] == "request_id"
    assert insert_activity(engine, [repair_row(content, CLOCKS).content]) == 0


def test_a_row_that_is_acceptable_is_not_touched() -> None:
    content = _content(price_date="2026-03-01", upstream_status=200, events=5, client_retry=0, bytes_out=10)
    assert repair_row(content, CLOCKS) == (content, [])


@pytest.mark.parametrize("line", [b'{"request_id": "cut', b"\xff\xfe", b"[]", b"7", b"", b"[" * 100_000])
def test_a_line_that_is_no_row_becomes_one_of_an_unknown_request(engine: Engine, line: bytes) -> None:
    row = _store(engine, line)
    assert (row["key_id"], row["outcome"], row["started_at"], row["cost_usd"]) == ("unknown", "lost", NOON, None)


def test_the_time_of_a_wrong_clock_is_moved_by_its_error(engine: Engine) -> None:
    began = datetime(1970, 1, 1, 0, 5, tzinfo=UTC)
    clocks = Clocks(database=NOON, host=began + timedelta(minutes=1))
    row = _store(engine, _content(started_at=began), clocks)
    assert row["started_at"] == NOON - timedelta(minutes=1) and row["repaired"] == "started_at"


def test_the_time_is_in_the_id_too(engine: Engine) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    row = _store(engine, _content(started_at="?", request_id=make_request_id()))
    assert before <= row["started_at"] <= datetime.now(UTC)


def test_a_bare_row_has_what_no_row_may_lack_its_charge_and_nothing_else(engine: Engine) -> None:
    charge = {"charged_usd": "0.25", "charged_tokens": 7, "budget_periods": [3]}
    row = repair_row(_content(**charge), CLOCKS, is_bare=True)
    kept = {name: value for name, value in json.loads(row.content).items() if value is not None}
    assert kept.keys() == {
        "request_id", "started_at", "key_id", "endpoint", "stream", "status", "outcome", "usage_source", "cost_kind",
        "repaired", *charge,
    }  # fmt: skip
    assert kept.items() >= charge.items()
    assert insert_activity(engine, [row.content]) == 1


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 2**31, 2**63, 10**13, 10**30])
    | st.floats()
    | st.text(st.characters(), max_size=10)
    | st.sampled_from(["\x00", "NaN", "1e999", "-1", "2026-03-14", "2026-03-14T12:00:00+23:00", "2026-W11-6T12:00Z"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=3), children, max_size=3),
    max_leaves=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.dictionaries(st.sampled_from([column.name for column in activity.columns]), ANYTHING, max_size=8))
def test_whatever_the_values_are_postgresql_takes_the_repaired_row(engine: Engine, change: dict[str, Any]) -> None:
    content = json.dumps(json.loads(_content(request_id=make_request_id())) | change).encode()
    try:
        insert_activity(engine, [content])
    except UnacceptableRows:
        repaired = repair_row(content, CLOCKS)
        assert repaired.changed
        insert_activity(engine, [repaired.content])
