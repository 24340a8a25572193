"""`GET /api/catalog/gateway/<gateway>/stats` counts requests; the key and PUBLIC_STATS decide whose."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from app.config import load_settings
from app.db.tables import OUTCOMES
from app.runtime import use_settings
from tests.support.chat import Seen, post_chat, request
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.keys import create_key
from tests.support.limited_keys import make_group, make_limited_key
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.waiting import wait_until

MODEL = "accounts/fireworks/models/deepseek-v3p1"

# The documented fields, in their order.
FIELDS = (
    "gateway scope key model endpoint time_range from to total_requests successful_requests failed_requests "
    "total_tokens prompt_tokens completion_tokens cached_tokens total_cost estimated_cost unpriced_requests "
    "unique_users unique_models avg_speed_tokens_per_sec avg_tokens_per_request avg_cost_per_request "
    "top_model ttft_ms duration_ms outcomes errors endpoints models series"
)


class Counted(NamedTuple):
    """A gateway and the address of its database, which no other gateway uses."""

    gateway: Gateway
    database_url: str


@pytest.fixture(scope="module")
def public(gateways: Gateways, postgres: Postgres, sandbox: Sandbox) -> Iterator[Counted]:
    """A gateway with PUBLIC_STATS. It is shared by a test that counts its requests and one that sends none."""
    url = postgres.create_migrated_database()
    with gateways.running(url, sandbox.settings | {"PUBLIC_STATS": "true"}) as gateway:
        yield Counted(gateway, url)
    gateways.after_stops(lambda: postgres.drop_database(url))


def test_requests_are_counted_a_moment_later(public: Counted) -> None:
    gateway = public.gateway
    whole = post_chat(gateway, MODEL).json["usage"]
    streamed = post_chat(gateway, MODEL, stream=True, stream_options={"include_usage": True})
    assert streamed.status == 200
    assert post_chat(gateway, "accounts/fireworks/models/sandbox-500", max_tokens=1).status >= 500
    assert post_chat(gateway, MODEL, temperature=99).status == 400
    data = _wait_for_requests(gateway, "all", 4)
    assert [name for name in data if name in FIELDS.split()] == FIELDS.split()
    assert (data["successful_requests"], data["failed_requests"]) == (2, 2)
    assert (data["outcomes"]["ok"], data["outcomes"]["upstream_error"], data["outcomes"]["rejected"]) == (2, 1, 1)
    assert set(data["outcomes"]) == set(OUTCOMES) and sum(data["errors"].values()) == 2
    assert (data["top_model"], data["unique_users"]) == (MODEL, 1)
    assert data["prompt_tokens"] == 2 * whole["prompt_tokens"]
    assert data["total_tokens"] == data["prompt_tokens"] + data["completion_tokens"]
    assert data["total_cost"] > 0 and data["estimated_cost"] == 0
    assert data["duration_ms"]["p50"] <= data["duration_ms"]["p99"]
    assert data["series"][-1]["requests"] + data["series"][-2]["requests"] == 4
    window = f"?from={data['from']}&step=15m&top_models=1".replace("+00:00", "Z")
    between = _data(_ask(gateway, "all", window))
    assert (between["time_range"], between["series_step_s"], between["total_requests"]) == (None, 900, 4)
    of_models = Counter[Any]()
    for step in between["series"]:
        of_models.update({model["model"]: model["requests"] for model in step["models"]})
    assert of_models[MODEL] == 2 and set(of_models) <= {MODEL, None, "other"} and of_models.total() == 4
    fireworks = _data(_ask(gateway, "fireworks"))
    assert fireworks["gateway"] == "fireworks" and fireworks["total_tokens"] == data["total_tokens"]
    assert _data(_ask(gateway, "FireWorks"))["gateway"] == "fireworks"
    assert _data(_ask(gateway, "chutes"))["total_requests"] == 0


def _wait_for_requests(gateway: Gateway, name: str, count: int) -> dict[str, Any]:
    def counted() -> dict[str, Any] | None:
        data = _data(_ask(gateway, name))
        return data if data["total_requests"] == count else None

    return wait_until(counted, what=f"{count} requests in the statistics")


def test_the_response_has_a_timestamp_inside_the_window(gateway: Gateway) -> None:
    seen = _ask(gateway, "fireworks")
    assert seen.headers["content-type"] == "application/json" and seen.headers["cache-control"] == "no-store"
    body = seen.json
    assert body["success"] is True
    assert body["data"]["time_range"] == "24h"
    assert body["data"]["from"] < body["timestamp"] < body["data"]["to"]


@pytest.mark.parametrize("time_range", ["1h", "24h", "7d", "30d", "all"])
def test_every_time_range_is_accepted(gateway: Gateway, time_range: str) -> None:
    assert _data(_ask(gateway, "all", f"?time_range={time_range}"))["time_range"] == time_range


@pytest.mark.parametrize("time_range", ["2h", "24H", "1", "-24h", "%00", "24h%20"])
def test_any_other_time_range_is_refused_with_a_list_of_them(gateway: Gateway, time_range: str) -> None:
    seen = _ask(gateway, "fireworks", f"?time_range={time_range}")
    assert (seen.status, seen.error["type"], seen.error["param"]) == (400, "invalid_request_error", "time_range")
    if "%00" not in time_range:
        assert "1h, 24h, 7d, 30d, all" in seen.error["message"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("time_range=1h&from=2026-11-01", "time_range"),
        ("to=2026-11-01", "to"),
        ("from=2026-01-01&step=1h", "step"),
        ("time_range=30d&step=1m", "step"),
        ("step=2h", "step"),
        ("top_models=21", "top_models"),
    ],
)
def test_a_wrong_window_is_refused_by_name(gateway: Gateway, query: str, param: str) -> None:
    seen = _ask(gateway, "all", f"?{query}")
    assert (seen.status, seen.error["param"]) == (400, param)


def test_an_unknown_parameter_is_refused(gateway: Gateway) -> None:
    seen = _ask(gateway, "fireworks", "?range=1h")
    assert seen.status == 400 and "time_range" in seen.error["message"]


def test_an_unknown_gateway_is_refused_with_a_list_of_them(gateway: Gateway) -> None:
    seen = _ask(gateway, "nowhere")
    assert (seen.status, seen.error["type"], seen.error["code"]) == (404, "not_found_error", "unknown_gateway")
    assert "fireworks, featherless, deepinfra, chutes, all" in seen.error["message"]


def test_statistics_require_a_key_by_default(gateway: Gateway) -> None:
    for headers in ({}, {"Authorization": "Bearer gw_wrong"}):
        seen = _ask(gateway, "fireworks", headers=headers)
        assert (seen.status, seen.error["type"]) == (401, "authentication_error")


@pytest.fixture(scope="module")
def counted(gateways: Gateways, postgres: Postgres, sandbox: Sandbox) -> Iterator[Counted]:
    """A gateway shared by two tests that count its requests; the second one adds to those of the first."""
    url = postgres.create_migrated_database()
    with gateways.running(url, sandbox.settings) as gateway:
        yield Counted(gateway, url)
    gateways.after_stops(lambda: postgres.drop_database(url))


def test_a_key_reads_its_own_statistics_and_the_operator_all(counted: Counted) -> None:
    gateway = counted.gateway
    key = _create_key(counted.database_url, "alice")
    own = {"Authorization": f"Bearer {key}"}
    key_id = key.split("_")[1]
    assert post_chat(gateway, MODEL, key=key).status == 200
    for _ in range(2):
        assert post_chat(gateway, MODEL).status == 200
    _wait_for_requests(gateway, "all", 3)

    def see(query: str, headers: Mapping[str, str] | None = None) -> tuple[object, ...]:
        data = _data(_ask(gateway, "all", query, headers))
        assert sum(step["requests"] for step in data["series"]) == data["total_requests"]
        return data["scope"], data["key"], data["endpoint"], data["total_requests"], data["unique_users"]

    assert see("", own) == see("?scope=key", own) == see(f"?key={key_id}", own) == ("key", key_id, None, 1, 1)
    assert see("") == see("?scope=all") == ("all", None, None, 3, 2)
    assert see("?scope=key") == ("key", "env", None, 2, 1)
    assert see(f"?key={key_id}&time_range=30d") == ("key", key_id, None, 1, 1)
    path = "/v1/chat/completions"
    assert see(f"?endpoint={path}", own) == ("key", key_id, path, 1, 1)
    of_model = _data(_ask(gateway, "all", f"?model={MODEL}"))
    assert (of_model["scope"], of_model["model"], of_model["key"]) == ("all", MODEL, None)
    assert (of_model["total_requests"], of_model["unique_users"], of_model["outcomes"]["ok"]) == (3, None, 3)
    assert of_model["duration_ms"]["p50"] > 0 and [row["model"] for row in of_model["models"]] == [MODEL]
    assert _data(_ask(gateway, "all", "?model=unused"))["models"] == []
    for query, param in {"?scope=all": "scope", "?key=env": "key", "?model=a": "model"}.items():
        seen = _ask(gateway, "all", query, own)
        assert (seen.status, seen.error["type"], seen.error["param"]) == (403, "permission_error", param)
        assert "Omit" in seen.error["message"]
    for query, param in {
        "?scope=all&key=env": "key",
        "?model=a&key=env": "model",
        "?model=a&scope=key": "model",
        "?scope=mine": "scope",
        "?endpoint=/v1": "endpoint",
    }.items():
        assert (_ask(gateway, "all", query).status, _ask(gateway, "all", query).error["param"]) == (400, param)
    records = request("GET", f"{gateway.url}/api/activity?endpoint={path}", headers=own).json["data"]
    assert [row["endpoint"] for row in records] == [path] and len(records[0]["worker_id"]) == 32


def test_a_holder_reads_what_its_keys_used_and_the_operator_who_used_what(counted: Counted) -> None:
    gateway, database_url = counted
    before = _data(_ask(gateway, "all"))
    earlier, users = before["total_requests"], max(1, before["unique_users"])  # The operator is one of them.
    group = make_group(database_url)
    alice, bob = make_limited_key(database_url, group=group), make_limited_key(database_url)
    further = request(
        "POST", f"{gateway.url}/api/keys", headers=gateway.headers, data=_further_key(alice, gateway)
    ).json
    for key, count in ((alice, 1), (further["key"], 2), (bob, 1), (gateway.key, 1)):
        for _ in range(count):
            assert post_chat(gateway, MODEL, key=key, max_tokens=20 if key == bob else 500).status == 200
    _wait_for_requests(gateway, "all", earlier + 5)
    holder = _show_key(gateway, alice)["holder"]
    own = {"Authorization": f"Bearer {alice}"}

    def see(query: str, headers: Mapping[str, str] | None = None) -> tuple[object, ...]:
        data = _data(_ask(gateway, "all", query, headers))
        shares = {share["name"]: share["requests"] for share in data["split"]}
        return data["scope"], data["holder"], data["group"], data["total_requests"], data["unique_users"], shares

    names = {_show_key(gateway, key)["name"]: number for key, number in ((alice, 1), (further["key"], 2))}
    of_alice = ("holder", holder, None, 3, 2, {})
    assert see("?scope=holder", own) == see(f"?holder={holder}", own) == see(f"?holder={holder}") == of_alice
    assert see("?scope=holder&split=key&time_range=7d", own) == (*of_alice[:5], names)
    assert see(f"?group={group}&split=holder") == ("group", None, group, 3, 2, {holder: 3})
    bobs = _show_key(gateway, bob)["holder"]
    everything = ("all", None, None, earlier + 5, users + 3)
    assert see("?split=holder") == (*everything, {holder: 3, bobs: 1, None: earlier + 1})
    assert see("?split=group&time_range=all") == (*everything, {group: 3, None: earlier + 2})
    # Requests count under the holder's current name, and those of a deleted holder under none.
    for method, path, body in [
        ("PATCH", f"holders/{holder}", b'{"name": "carol"}'),
        ("DELETE", f"keys/{bob.split('_')[1]}", None),
        ("DELETE", f"holders/{bobs}", None),
    ]:
        assert request(method, f"{gateway.url}/api/{path}", headers=gateway.headers, data=body).status == 200
    assert see("?split=holder")[-1] == {"carol": 3, None: earlier + 2}
    shown = request("GET", f"{gateway.url}/api/holders/carol", headers=gateway.headers).json["data"]
    share = next(each for each in _data(_ask(gateway, "all", "?split=holder"))["split"] if each["name"] == "carol")
    assert shown["usage"] == shown["usage_daily"] == shown["usage_monthly"] == share["total_cost"] > 0
    for query, headers, status, param in [
        (f"?holder={bobs}", own, 403, "holder"),
        ("?holder=nobody", own, 403, "holder"),
        (f"?group={group}", own, 403, "group"),
        ("?split=key", own, 403, "split"),
        ("?scope=holder", None, 400, "holder"),
        ("?holder=nobody", None, 404, "holder"),
        ("?group=nothing", None, 404, "group"),
        ("?split=model", None, 400, "split"),
        ("?split=key&key=env", None, 400, "split"),
        (f"?holder={holder}&group={group}", None, 400, "group"),
        (f"?holder={holder}&scope=all", None, 400, "holder"),
        (f"?group={group}&scope=holder", None, 400, "group"),
        (f"?group={group}&model=a", None, 400, "model"),
    ]:
        seen = _ask(gateway, "all", query, headers)
        assert (seen.status, seen.error["param"]) == (status, param), (query, seen.body)
    assert (
        _ask(gateway, "all", "?scope=holder", {"Authorization": f"Bearer {_create_key(database_url, 'dan')}"}).status
        == 400
    )


def _further_key(key: str, gateway: Gateway) -> bytes:
    return json.dumps({"name": "further", "holder": _show_key(gateway, key)["holder"]}).encode()


def _show_key(gateway: Gateway, key: str) -> dict[str, Any]:
    shown: dict[str, Any] = request("GET", f"{gateway.url}/api/keys/{key.split('_')[1]}", headers=gateway.headers).json[
        "data"
    ]
    return shown


def test_public_statistics_require_no_key_and_activity_still_does(public: Counted) -> None:
    gateway = public.gateway
    seen_by_all = _data(_ask(gateway, "chutes", headers={}))
    assert (seen_by_all["scope"], seen_by_all["total_requests"]) == ("all", 0)
    for headers in ({"Authorization": "Basic cHJveHk6cHJveHk="}, {"Authorization": "Bearer"}, {"x-api-key": ""}):
        seen = _ask(gateway, "fireworks", headers=headers)
        assert (seen.status, seen.error["code"]) == (401, "missing_api_key"), headers
    seen = _ask(gateway, "fireworks", "?scope=key", {})
    assert seen.error["code"] == "missing_api_key" and "x-api-key" in seen.error["message"]
    own = {"x-api-key": _create_key(public.database_url, "bob")}
    assert _data(_ask(gateway, "all", headers=own))["scope"] == "key"
    for query in ("?scope=all", "?model=a"):
        assert _data(_ask(gateway, "all", query, own))["scope"] == "all"
    assert _data(_ask(gateway, "all", "?model=a", {}))["model"] == "a"
    for query, headers in [("", {"Authorization": "Bearer gw_wrong"}), ("?scope=key", {}), ("?key=env", {})]:
        assert _ask(gateway, "all", query, headers).status == 401
    for path in ("/api/activity", "/api/activity/integrity", "/api/usage"):
        assert request("GET", gateway.url + path).status == 401


def _create_key(database_url: str, name: str) -> str:
    use_settings(load_settings({"DATABASE_URL": database_url}))
    try:
        return create_key(name)[0]
    finally:
        use_settings(None)


def _ask(gateway: Gateway, name: str, query: str = "", headers: Mapping[str, str] | None = None) -> Seen:
    sent = gateway.headers if headers is None else headers
    return request("GET", f"{gateway.url}/api/catalog/gateway/{name}/stats{query}", headers=sent)


def _data(seen: Seen) -> dict[str, Any]:
    assert seen.status == 200, seen.body
    data: dict[str, Any] = seen.json["data"]
    return data
