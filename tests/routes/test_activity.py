"""`GET /api/activity` and `/api/usage` return a key's own records, in pages that neither skip nor repeat any."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import Engine

from app.config import load_settings
from app.db import create_engine_for
from app.runtime import use_settings
from tests.db.rows import NOON, Row, insert_keys, insert_rows, make_row
from tests.support.chat import Seen, request
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.keys import create_key
from tests.support.postgres import Postgres

DAY = timedelta(days=1)


class Place:
    """A gateway whose database has records of two keys.

    Attributes:
        rows: newest first.
        own: the gateway key of the first of the two, and `own_id` its id.
    """

    def __init__(self, gateway: Gateway, rows: list[Row], own: str, own_id: str) -> None:
        self.gateway, self.rows, self.own, self.own_id = gateway, rows, own, own_id

    def ask(self, path: str, key: str | None = None) -> Seen:
        """Sends a GET with the operator's key, or with `key`."""
        headers = {"Authorization": f"Bearer {key or self.gateway.key}"}
        return request("GET", self.gateway.url + path, headers=headers)


@pytest.fixture(scope="module")
def place(tree: Any, postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The gateway that these tests share; no test adds to its 300 records."""
    url = postgres.create_migrated_database()
    directory = tmp_path_factory.mktemp("history")
    settings = base_settings(directory, url)
    use_settings(load_settings(settings))
    own, key = create_key("first")
    use_settings(None)
    engine = create_engine_for(url)
    rows = _insert_history(engine, key.id)
    engine.dispose()
    with running_gateway(tree, directory, settings) as gateway:
        yield Place(gateway, rows, own, key.id)


def _insert_history(engine: Engine, key_id: str) -> list[Row]:
    chance = random.Random(5)
    rows = [
        make_row(
            after_s=0 if number < 30 else chance.randrange(-3 * 86_400, 86_400),
            key_id=chance.choice([key_id, "second"]),
            gateway=chance.choice(["fireworks", "chutes"]),
            model_served=chance.choice(["a/b", "c d", "=evil"]),
            outcome=(outcome := chance.choice(["ok", "ok", "client_gone"])),
            status=200 if outcome == "ok" else chance.choice([200, 499, 503]),
            error_type=None if outcome == "ok" else outcome,
            stream=number % 3 > 0,
            duration_ms=float(number),
        )
        for number in range(300)
    ]
    insert_rows(engine, rows)
    insert_keys(engine, "second")
    return sorted(rows, key=lambda row: (row["started_at"], row["request_id"]), reverse=True)


def test_pages_along_the_cursor_are_all_records_newest_first(place: Place) -> None:
    seen, cursor = [], ""
    while True:
        page = place.ask(f"/api/activity?limit=37{cursor}").json
        seen += page["data"]
        assert page["has_more"] is (page["next_cursor"] is not None)
        if not page["has_more"]:
            break
        assert len(page["data"]) == 37
        cursor = f"&cursor={page['next_cursor']}"
    assert _ids(seen) == _ids(place.rows)


def test_a_record_has_every_column_and_its_costs_all_their_digits(place: Place) -> None:
    seen = place.ask("/api/activity?limit=1")
    assert b'"cost_usd":0.000123456789012,' in seen.body
    record = seen.json["data"][0]
    assert set(place.rows[0]) <= set(record)
    assert datetime.fromisoformat(record["started_at"]) == place.rows[0]["started_at"]
    assert seen.headers["cache-control"] == "no-store"


def test_a_key_sees_its_own_records_alone(place: Place) -> None:
    own = [row for row in place.rows if row["key_id"] == place.own_id]
    for query in ("", f"&key={place.own_id}"):
        assert _ids(place.ask(f"/api/activity?limit=1000{query}", place.own).json["data"]) == _ids(own)
    for path in (
        "/api/activity?key=second",
        "/api/activity?key=env",
        "/api/usage?key=second",
        "/api/activity/integrity",
    ):
        seen = place.ask(path, place.own)
        assert (seen.status, seen.error["type"]) == (403, "permission_error")


def test_a_cursor_from_the_operator_shows_a_key_its_own_records_alone(place: Place) -> None:
    cursor = place.ask("/api/activity?limit=1").json["next_cursor"]
    page = place.ask(f"/api/activity?limit=1000&cursor={cursor}", place.own).json
    assert {row["key_id"] for row in page["data"]} == {place.own_id}


def test_a_key_that_is_not_stored_is_named_to_the_operator_and_no_empty_result(place: Place) -> None:
    for path in ("/api/activity?", "/api/activity?format=csv&", "/api/usage?", "/api/catalog/gateway/all/stats?"):
        seen = place.ask(f"{path}key=nosuch")
        assert (seen.status, seen.error["param"], seen.error["code"]) == (404, "key", "unknown_key"), path
        assert "There is no key 'nosuch'." in seen.error["message"]
        assert place.ask(f"{path}key=env").status == place.ask(f"{path}key=second").status == 200
        assert place.ask(f"{path}key=nosuch", place.own).status == 403


@pytest.mark.parametrize(
    ("query", "column", "value"),
    [
        ("model=c%20d", "model_served", "c d"),
        ("gateway=chutes", "gateway", "chutes"),
        ("outcome=client_gone", "outcome", "client_gone"),
        ("key=second", "key_id", "second"),
        ("status=503", "status", 503),
        ("error_type=client_gone", "error_type", "client_gone"),
        ("stream=false", "stream", False),
    ],
)
def test_filters_choose_the_records_that_have_the_value(place: Place, query: str, column: str, value: Any) -> None:
    wanted = [row for row in place.rows if row[column] == value]
    assert 0 < len(wanted) < len(place.rows)
    assert _ids(place.ask(f"/api/activity?limit=1000&{query}").json["data"]) == _ids(wanted)


def test_several_values_and_ranges_choose_records_and_their_export(place: Place) -> None:
    query = "outcome=client_gone,lost&status=4xx,503&min_duration_ms=100.5&max_duration_ms=250&min_cost_usd=0.0001"
    wanted = [row for row in place.rows if row["status"] != 200 and 101 <= row["duration_ms"] <= 250]
    page = place.ask(f"/api/activity?limit=1000&{query}").json
    assert wanted and _ids(page["data"]) == _ids(wanted) and page["searched_to"] is page["next_cursor"] is None
    export = place.ask(f"/api/activity?format=csv&{query}").body.decode().splitlines()
    assert [line.partition(",")[0] for line in export[1:]] == _ids(wanted)
    assert place.ask(f"/api/activity?{query}&max_cost_usd=0.0001").json["data"] == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-03-13", "2026-03-14"),
        ("2026-03-14T12:00:00Z", "2026-03-14T12:00:00.000001Z"),
        ("2026-03-14T14:00:00+02:00", "2026-03-14 12:30"),
    ],
)
def test_times_are_iso_8601_with_from_included_and_to_not(place: Place, start: str, end: str) -> None:
    first, last = (_moment(text) for text in (start, end))
    wanted = [row for row in place.rows if first <= row["started_at"] < last]
    assert wanted
    for encode in (quote, str):  # Unescaped, a plus sign arrives as a space.
        query = f"from={encode(start)}&to={encode(end)}"
        assert _ids(place.ask(f"/api/activity?limit=1000&{query}").json["data"]) == _ids(wanted)


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=%D9%A1", "limit"),
        ("cursor=abc", "cursor"),
        ("cursor=f" + "_" * 31, "cursor"),
        ("cursor=" + "A" * 31 + "%21", "cursor"),
        ("from=yesterday", "from"),
        ("to=0001-01-01T00:00:00%2B14:00", "to"),
        ("from=2026-03-14&to=2026-03-14", "from"),
        ("gateway=nowhere", "gateway"),
        ("outcome=fine", "outcome"),
        ("model=%00", "model"),
        ("key=" + "k" * 301, "key"),
        ("format=xml", "format"),
        ("outcomes=ok", "outcomes"),
        ("outcome=ok&outcome=lost", "outcome"),
        ("outcome=ok,fine", "outcome"),
        ("status=6xx", "status"),
        ("status=200,20x", "status"),
        ("stream=1", "stream"),
        ("min_duration_ms=-1", "min_duration_ms"),
        ("min_cost_usd=2&max_cost_usd=1.5", "min_cost_usd"),
        ("format=csv&limit=5", "limit"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(place: Place, query: str, param: str) -> None:
    seen = place.ask(f"/api/activity?{query}")
    assert (seen.status, seen.error["type"], seen.error["param"]) == (400, "invalid_request_error", param)


def test_usage_is_the_sum_of_the_records_by_day_gateway_and_model(place: Place) -> None:
    span = "from=2026-03-11&to=2026-03-16"
    for query, key, keep in [("", None, ""), ("", place.own, place.own_id), ("&key=second", None, "second")]:
        usage = place.ask(f"/api/usage?{span}{query}", key).json
        rows = [row for row in place.rows if keep in ("", row["key_id"])]
        assert usage["key"] == (keep or None)
        assert (usage["total_requests"], usage["total_tokens"]) == (len(rows), 150 * len(rows))
        assert usage["total_cost"] == pytest.approx(len(rows) * 0.000123456789012)
        days: dict[Any, int] = {}
        for row in rows:
            group = (row["started_at"].date().isoformat(), row["gateway"], row["model_served"])
            days[group] = days.get(group, 0) + 1
        assert {(row["day"], row["gateway"], row["model"]): row["requests"] for row in usage["days"]} == days
        assert [row["day"] for row in usage["days"]] == sorted((row["day"] for row in usage["days"]), reverse=True)


def test_usage_is_of_the_last_thirty_days_by_default(place: Place) -> None:
    usage = place.ask("/api/usage").json
    assert datetime.fromisoformat(usage["to"]) - datetime.fromisoformat(usage["from"]) == 30 * DAY
    assert usage["from"] > f"{NOON:%Y-%m-%d}" and usage["total_requests"] == 0 and usage["total_cost"] == 0


@pytest.mark.parametrize(
    "query", ["from=2026-03-14T12:00", "from=2026-03-14&to=2026-03-14", "from=2020-01-01&to=2026-01-01"]
)
def test_usage_takes_whole_days_up_to_a_year(place: Place, query: str) -> None:
    assert (place.ask(f"/api/usage?{query}").status, place.ask("/api/usage?day=1").status) == (400, 400)


def test_integrity_is_shown_to_the_operator(place: Place) -> None:
    ledger = place.ask("/api/activity/integrity").json
    assert sum(ledger["outcomes"].values()) == len(place.rows)
    parts = {"in_flight", "unshipped", "unrecorded", "rejected", "unsent"}
    assert parts <= set(ledger) and ledger["started"] == 0 and ledger["balanced"] is False


def _ids(rows: list[Any]) -> list[str]:
    return [str(row["request_id"]) for row in rows]
