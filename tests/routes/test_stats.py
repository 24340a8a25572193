"""`GET /api/catalog/gateway/<gateway>/stats` counts requests; PUBLIC_STATS decides who may read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from app.db.tables import OUTCOMES
from tests.conftest import MakeGateway
from tests.support.chat import Seen, post_chat, request
from tests.support.gateway import Gateway
from tests.support.sandbox import Sandbox
from tests.support.waiting import wait_until

MODEL = "accounts/fireworks/models/deepseek-v3p1"

# The fields of the contract, in their order.
FIELDS = (
    "gateway time_range from to total_requests successful_requests failed_requests total_tokens "
    "prompt_tokens completion_tokens cached_tokens total_cost estimated_cost unpriced_requests "
    "unique_users unique_models avg_speed_tokens_per_sec avg_tokens_per_request avg_cost_per_request "
    "top_model ttft_ms duration_ms outcomes errors models series"
)


def test_requests_are_counted_a_moment_later(make_gateway: MakeGateway, sandbox: Sandbox) -> None:
    gateway = make_gateway(sandbox.settings)
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


def test_public_statistics_require_no_key_and_activity_still_does(make_gateway: MakeGateway) -> None:
    gateway = make_gateway({"PUBLIC_STATS": "true"})
    assert _data(_ask(gateway, "fireworks", headers={}))["total_requests"] == 0
    for path in ("/api/activity", "/api/activity/integrity", "/api/usage"):
        assert request("GET", gateway.url + path).status == 401


def _ask(gateway: Gateway, name: str, query: str = "", headers: Mapping[str, str] | None = None) -> Seen:
    sent = gateway.headers if headers is None else headers
    return request("GET", f"{gateway.url}/api/catalog/gateway/{name}/stats{query}", headers=sent)


def _data(seen: Seen) -> dict[str, Any]:
    assert seen.status == 200, seen.body
    data: dict[str, Any] = seen.json["data"]
    return data
