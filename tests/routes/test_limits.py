"""Requests of keys with limits: their charges, and refusals in the forms that SDKs understand."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.support.activity_tables import ActivityTables
from tests.support.answers import chat_answer, chunk, event_bytes, json_answer, sse_stream, usage_of, whole_stream
from tests.support.chat import (
    HELLO,
    PREFIX,
    Seen,
    chat_body,
    open_chat,
    post,
    post_chat,
    request,
    rows_where,
    wait_for_row,
)
from tests.support.gateway import Gateway
from tests.support.gateways import Gateways
from tests.support.limited_keys import get_charges, make_group, make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close, hang, send
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

LISTED = PREFIX + "scripted"
# The cost of 11 prompt and 3 output tokens, the usage of the scripted answers.
COST = Decimal("0.000017")
PRICES = """
unit = "usd_per_million_tokens"
[fireworks."*"]
prompt = 1
completion = 2
[fireworks."accounts/fireworks/models/free"]
prompt = 0
completion = 0
"""


@pytest.fixture(scope="module")
def limited(
    gateways: Gateways, session_database_url: str, shared_upstream: ScriptedUpstream, tmp_path_factory: Any
) -> Iterator[Gateway]:
    """A gateway in front of the scripted upstream whose models all have a price."""
    prices: Path = tmp_path_factory.mktemp("prices") / "prices.toml"
    prices.write_text(PRICES)
    shared_upstream.reset_scripts()  # Another file may have scripted the list of models.
    settings = shared_upstream.settings | {"PRICE_FILE": str(prices), "UPSTREAM_FIRST_BYTE_TIMEOUT": "2"}
    with gateways.running(session_database_url, settings) as gateway:
        wait_until(lambda: '"catalog_loaded"' in gateway.log(), what="the catalog")
        yield gateway


@pytest.fixture
def upstream(shared_upstream: ScriptedUpstream) -> ScriptedUpstream:
    """The scripted upstream without scripts of earlier tests; requests for lists of models take no enqueued ones."""
    shared_upstream.reset_scripts()
    shared_upstream.queues_lists = False
    return shared_upstream


def post_to(gateway: Gateway, path: str, key: str, **body: Any) -> Seen:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    return request("POST", gateway.url + path, headers=headers, data=json.dumps(body).encode())


def ceiling_of(seen_bytes: int, output: int) -> Decimal:
    """Returns the ceiling in USD of a chat request of that many bytes."""
    return (Decimal(seen_bytes + 1_024) + 2 * output) / 10**6


ERROR = json_answer({"error": {"message": "no"}}, 400)
BUSY = json_answer({"error": {"message": "busy"}}, 503)
LATE = json_answer({"error": {"message": "late"}}, 504)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n"
ANSWER = {
    "id": "x",
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    "usage": usage_of(11, 3),
}
TEXT_ANSWER = {"id": "x", "choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}], "usage": usage_of(11, 3)}
# Case → the provider's scripts, whether the client streams, and the charge: a cost, and a number of ceilings.
CASES: dict[str, tuple[list[Script], bool, Decimal, int]] = {
    "whole": ([chat_answer("hi")], False, COST, 0),
    "streamed": ([sse_stream(whole_stream("hi"))], True, COST, 0),
    "refused": ([ERROR], False, Decimal(0), 0),
    "busy, then served": ([BUSY, chat_answer("hi")], False, COST, 0),
    "late, then served": ([LATE, chat_answer("hi")], False, COST, 1),
    "late, late, then refused": ([LATE, LATE, ERROR], False, Decimal(0), 2),
    "cut in the middle": ([[send(HEAD + b'{"id": "x"'), close()]], False, Decimal(0), 1),
    "silent": ([[hang()]], False, Decimal(0), 1),
    "silent stream": ([[hang()]], True, Decimal(0), 1),
    "error in place of the answer": ([json_answer({"error": {"message": "no", "code": 429}})], False, Decimal(0), 0),
    "no answer at all": ([json_answer({"what": 1})], False, Decimal(0), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_a_request_is_charged_what_it_cost_else_what_it_may_have_cost(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str, name: str
) -> None:
    scripts, stream, cost, ceilings = CASES[name]
    key = make_limited_key(session_database_url, ("usd", "5"), ("tokens", 10**6), ("requests", 10))
    upstream.enqueue(*scripts)
    # A separate model, because failures open a model's breaker.
    model = PREFIX + re.sub(r"\W+", "-", name)
    seen = post_chat(limited, model, key=key, stream=stream, max_tokens=50)
    row = wait_for_row(session_database_url, seen.request_id)
    ceiling = ceiling_of(len(upstream.calls[0].body), 50)
    assert row["charged_usd"] == cost + ceilings * ceiling
    assert len(row["budget_periods"]) == 3 and row["outcome"] != "lost"
    usd = get_charges(session_database_url, key)["usd"]
    assert sum(usd[:3]) == row["charged_usd"] and usd[2] == ceilings * ceiling and usd[3] == 1
    used = sum(row[name] or 0 for name in ("prompt_tokens", "completion_tokens"))
    most = len(upstream.calls[0].body) + 1_024 + 50
    assert row["charged_tokens"] == used + ceilings * most
    assert get_charges(session_database_url, key)["requests"] == (1, 0, 0, 1)


@pytest.mark.parametrize("stream", [True, False])
def test_a_stream_without_usage_is_charged_for_all_that_may_have_been_sent(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str, stream: bool
) -> None:
    key = make_limited_key(session_database_url, ("usd", "5"), ("tokens", 10**6), tokens_per_minute=10**6)
    # One event has hundreds of tokens, and nearly all of the prompt's tokens are in a tool's schema.
    events = [chunk("words " * 400), chunk("more")]
    upstream.enqueue(sse_stream(events, ending="fin"))
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 5_000, "parameters": {}}}
    most = 8_000 if stream else 50_000  # For so many, the gateway requests a stream from the provider.
    model = PREFIX + ("broken-off" if stream else "broken-off-whole")
    seen = post_chat(limited, model, key=key, stream=stream, tools=[tool], max_tokens=most)
    row = wait_for_row(session_database_url, seen.request_id)
    received = sum(len(event_bytes(event)) for event in events)
    prompt = len(upstream.calls[0].body) + 1_024
    assert (row["outcome"], row["usage_source"]) == ("upstream_cut", "counted")
    assert row["charged_tokens"] == prompt + received and received < most
    assert row["charged_usd"] == (Decimal(prompt) + 2 * received) / 10**6
    assert row["cost_usd"] < row["charged_usd"]
    # The part of the charge beyond the record's own count is shown as a charge for unknown usage.
    counted = row["prompt_tokens"] + row["completion_tokens"]
    assert get_charges(session_database_url, key)["tokens"] == (0, counted, prompt + received - counted, 1)


def test_the_tools_of_a_request_count_for_the_rate_of_tokens(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    upstream.default = chat_answer("hi", usage=usage_of(9_000, 3))
    key = make_limited_key(session_database_url, tokens_per_minute=12_000)
    tool = {"type": "function", "function": {"name": "f", "description": "word " * 8_000, "parameters": {}}}
    with ThreadPoolExecutor(6) as pool:
        seen = list(pool.map(lambda _: post_chat(limited, LISTED, key=key, max_tokens=5, tools=[tool]), range(6)))
    assert sorted(each.status for each in seen) == [200] + [429] * 5


def test_a_deployment_of_another_model_is_not_allowed_by_its_name(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, models=["fireworks/*scripted"])
    assert post_chat(limited, LISTED, key=key).status == 200
    assert post_chat(limited, LISTED + "#accounts/mine/deployments/one", key=key).status == 200
    seen = post_chat(limited, PREFIX + "other#scripted", key=key)
    assert (seen.status, seen.error["code"]) == (403, "model_not_allowed")


def test_what_the_provider_counts_above_the_ceiling_is_charged_and_logged(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, ("usd", "5"), ("tokens", 10**6))
    upstream.enqueue(chat_answer("hi", usage=usage_of(9_000, 60)))
    seen = post_chat(limited, LISTED, key=key, max_tokens=50)
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["charged_usd"], row["charged_tokens"]) == (Decimal("0.00912"), 9_060)
    assert get_charges(session_database_url, key)["tokens"] == (9_060, 0, 0, 1)
    (line,) = [line for line in limited.log().splitlines() if '"ceiling_exceeded"' in line]
    assert seen.request_id in line


def test_a_client_that_leaves_is_charged_and_its_place_is_free(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, ("usd", "5"), concurrent=1)
    upstream.enqueue([hang()])
    mine = Gateway(limited._child, limited.port, key, limited.root, limited._log)
    with open_chat(mine, PREFIX + "left", stream=False, max_tokens=50):
        wait_until(lambda: upstream.calls, what="the request at the provider")
        second = post_chat(limited, PREFIX + "left", key=key, max_tokens=50)
        assert (second.status, second.error["code"]) == (429, "rate_limit_exceeded")
        assert second.headers["x-gateway-limit"] == "key concurrent requests"
        assert "concurrent" in second.error["message"] and int(second.headers["retry-after-ms"]) > 0
    wait_until(lambda: post_chat(limited, PREFIX + "left", key=key, max_tokens=50).status == 200, what="a free place")
    row = wait_until(
        lambda: [
            row
            for row in rows_where(session_database_url, "key_id", key.split("_")[1])
            if row["outcome"] == "client_gone" and row["charged_usd"]
        ],
        what="the row",
    )[-1]
    assert row["charged_usd"] == ceiling_of(len(upstream.calls[0].body), 50) and row["cost_usd"] is None


def test_a_used_up_budget_is_a_402_that_says_what_would_fit(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    upstream.default = chat_answer("hi", usage=usage_of(11, 4_000))
    key = make_limited_key(session_database_url, ("usd", "0.02"))
    assert post_chat(limited, LISTED, key=key, max_tokens=4_000).status == 200  # Uses 0.8 of the 2 cents.
    seen = post_chat(limited, LISTED, key=key, max_tokens=9_000)
    assert (seen.status, seen.error["type"], seen.error["code"]) == (402, "insufficient_quota", "insufficient_quota")
    assert seen.headers["x-should-retry"] == "false" and "retry-after" not in seen.headers
    assert re.fullmatch(r"key budget day; resets=\d{4}-\d\d-\d\dT00:00:00Z", seen.headers["x-gateway-limit"])
    said = re.fullmatch(
        r"The key's budget of 0\.02 USD a day has 0\.01\d* USD left; this request may use up to 0\.02 USD\. Send "
        r"max_tokens of at most (\d+), wait until \S+ or ask the operator for more\.",
        seen.error["message"],
    )
    assert said is not None and 5_000 < int(said[1]) < 6_000
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["status"], row["cost_usd"], row["charged_usd"]) == ("rejected", 402, 0, None)
    assert len(upstream.calls) == 1
    # Each API refuses in its own words, also for a stream; and the suggested maximum fits.
    anthropic = post_to(limited, "/v1/messages", key, model=LISTED, max_tokens=9_000, messages=HELLO, stream=True)
    assert (anthropic.status, anthropic.error["type"]) == (402, "billing_error")
    responses = post_to(limited, "/v1/responses", key, model=LISTED, max_output_tokens=9_000, input="Hello!")
    assert (responses.status, responses.error["param"]) == (402, "max_output_tokens")
    assert "Send max_output_tokens of at most" in responses.error["message"]
    assert post_chat(limited, LISTED, key=key, max_tokens=int(said[1])).status == 200


def test_what_costs_nothing_passes_and_what_cannot_be_reckoned_does_not(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, ("usd", "0"))
    free = post_chat(limited, PREFIX + "free", key=key)
    assert free.status == 200
    row = wait_for_row(session_database_url, free.request_id)
    assert (row["charged_usd"], len(row["budget_periods"])) == (0, 1)
    refused = post_chat(limited, PREFIX + "priced", key=key)
    assert (refused.status, refused.error["code"]) == (400, "max_tokens_required")
    empty = post_chat(limited, LISTED, key=key, max_tokens=1)
    assert empty.status == 402 and "max_tokens of" not in empty.error["message"]


def test_rates_refuse_with_the_time_to_wait_and_are_shown_on_answers(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    provider = {"x-ratelimit-limit-requests": "600", "x-ratelimit-over-limit": "no"}
    upstream.default = chat_answer("hi")
    upstream.enqueue(json_answer(ANSWER, headers=provider))
    group = make_group(session_database_url, tokens_per_minute=10**6)
    key = make_limited_key(session_database_url, group=group, requests_per_minute=3)
    first = post_chat(limited, LISTED, key=key)
    assert first.status == 200 and first.headers["x-upstream-ratelimit-limit-requests"] == "600"
    assert first.headers["x-upstream-ratelimit-over-limit"] == "no" and "x-ratelimit-over-limit" not in first.headers
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-limit-tokens"]) == ("3", "1000000")
    for what in ("requests", "tokens"):
        assert int(first.headers[f"x-ratelimit-remaining-{what}"]) < int(first.headers[f"x-ratelimit-limit-{what}"])
        assert re.fullmatch(r"(\d+m)?\d+(\.\d)?(s|ms)", first.headers[f"x-ratelimit-reset-{what}"])
    body = json.dumps(chat_body(LISTED)).encode()
    # A browser shows a page only the headers that are exposed.
    shown = post(limited, body, key=key, headers={"Origin": "https://chat.example"})
    assert "x-ratelimit-remaining-requests" in shown.headers["access-control-expose-headers"].split(", ")
    last = post_chat(limited, LISTED, key=key)
    assert int(last.headers["x-ratelimit-remaining-requests"]) < int(shown.headers["x-ratelimit-remaining-requests"])
    refused = post_chat(limited, LISTED, key=key, stream=True)
    assert (shown.status, last.status, refused.status) == (200, 200, 429)
    assert (refused.error["type"], refused.error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    wait_s, wait_ms = int(refused.headers["retry-after"]), int(refused.headers["retry-after-ms"])
    assert 0 < wait_ms <= 61_000 and wait_s == -(-wait_ms // 1000)
    assert refused.headers["x-gateway-limit"] == "key requests per minute"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0" and "x-should-retry" not in refused.headers
    row = wait_for_row(session_database_url, refused.request_id)
    assert (row["status"], row["cost_usd"], row["budget_periods"]) == (429, 0, None)
    message = post_to(limited, "/v1/messages", key, model=LISTED, max_tokens=9, messages=HELLO)
    assert (message.status, message.error["type"]) == (429, "rate_limit_error")
    plain = post_chat(limited, LISTED)  # The operator's key, without limits.
    assert not [name for name in plain.headers if "ratelimit" in name]


def test_a_key_uses_and_sees_only_the_models_that_all_its_subjects_allow(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    group = make_group(session_database_url, models=["*scripted", "*free"])
    key = make_limited_key(session_database_url, group=group, models=["Fireworks/*/Scripted", "deepinfra/*"])
    headers = {"Authorization": f"Bearer {key}"}
    assert post_chat(limited, LISTED, key=key).status == 200
    assert post_chat(limited, "scripted", key=key).status == 200
    for model in (PREFIX + "free", PREFIX + "other"):
        refused = post_chat(limited, model, key=key)
        assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "model_not_allowed", "model")
        assert refused.headers["x-should-retry"] == "false"
        assert wait_for_row(session_database_url, refused.request_id)["cost_usd"] == 0
    assert post_chat(limited, PREFIX + "free").status == 200  # Fills the cache of names, which all keys share.
    assert post_chat(limited, PREFIX + "free", key=key).status == 403

    everything = request("GET", limited.url + "/v1/models", headers=limited.headers)
    narrow = make_limited_key(session_database_url, models=["fireworks/nothing"])
    for path in ("/v1/models", "/v1/models?limit=1"):
        own = request("GET", limited.url + path, headers=headers)
        assert [entry["id"] for entry in own.json["data"]] == [LISTED]
        none = request("GET", limited.url + path, headers={"Authorization": f"Bearer {narrow}"})
        assert none.json["data"] == [] and none.json["first_id"] is None
        assert len({own.headers["etag"], none.headers["etag"], everything.headers["etag"]}) == 3
        for asked, status in ((own, 304), (none, 200), (everything, 200)):
            again = request("HEAD", limited.url + path, headers=headers | {"If-None-Match": asked.headers["etag"]})
            assert (again.status, again.headers["etag"]) == (status, own.headers["etag"])
    assert request("GET", f"{limited.url}/v1/models/scripted", headers=headers).json["id"] == LISTED
    hidden = request("GET", f"{limited.url}/v1/models/scripted", headers={"Authorization": f"Bearer {narrow}"})
    assert (hidden.status, hidden.error["code"]) == (403, "model_not_allowed")


def test_more_output_than_the_key_may_ask_for_is_refused_clamped_or_set(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    key = make_limited_key(session_database_url, max_output_tokens=100)

    def sent() -> dict[str, Any]:
        body: dict[str, Any] = upstream.calls[-1].json
        return {name: body[name] for name in ("max_tokens", "max_completion_tokens") if name in body}

    for field in ("max_tokens", "max_completion_tokens"):
        assert post_chat(limited, LISTED, key=key, **{field: 100}).status == 200 and sent() == {field: 100}
        refused = post_chat(limited, LISTED, key=key, **{"max_tokens": 1, field: 101})
        assert (refused.status, refused.error["code"]) == (400, "max_output_tokens_exceeded")
        assert refused.error["param"] == field and "at most 100" in refused.error["message"]
    silent = post_chat(limited, LISTED, key=key)
    assert sent() == {"max_tokens": 100} and silent.headers["x-gateway-applied-params"] == "max_tokens=100"
    response = post_to(limited, "/v1/responses", key, model=LISTED, input="Hello!")
    assert response.headers["x-gateway-applied-params"] == "max_output_tokens=100" and sent() == {"max_tokens": 100}
    refused = post_to(limited, "/v1/responses", key, model=LISTED, input="Hello!", max_output_tokens=101)
    assert (refused.status, refused.error["param"]) == (400, "max_output_tokens")
    message = post_to(limited, "/v1/messages", key, model=LISTED, max_tokens=32_000, messages=HELLO)
    assert message.status == 200 and sent() == {"max_tokens": 100}
    assert message.headers["x-gateway-applied-params"] == "max_tokens=32000->100"
    upstream.default = json_answer(TEXT_ANSWER)
    zero = post_to(limited, "/v1/completions", key, model=LISTED, prompt="a", max_tokens=0, echo=True)
    assert zero.status == 200 and sent() == {"max_tokens": 0}
    assert post_to(limited, "/v1/completions", key, model=LISTED, prompt="a").status == 200
    assert sent() == {"max_tokens": 100}


@soak_only("services/limits/test_closing.py::test_where_records_may_be_missing_the_rest_stays_granted")
def test_a_request_of_a_killed_worker_is_charged_at_its_ceiling(
    gateways: Gateways, upstream: ScriptedUpstream, database_url: str
) -> None:
    key = make_limited_key(database_url, ("tokens", 10**6), ("requests", 5))
    upstream.on_model("held", [hang()])
    with gateways.running(database_url, upstream.settings) as gateway:
        mine = Gateway(gateway._child, gateway.port, key, gateway.root, gateway._log)
        with open_chat(mine, PREFIX + "held", max_tokens=50):
            wait_until(lambda: upstream.calls, what="the request at the provider")
            os.kill(gateway.worker_pids()[0], signal.SIGKILL)
        (row,) = wait_until(lambda: rows_where(database_url, "outcome", "lost"), what="the row of the lost request")
        most = len(upstream.calls[0].body) + 1_024 + 50
        assert (row["charged_tokens"], row["charged_usd"], len(row["budget_periods"])) == (most, None, 2)
        assert get_charges(database_url, key) == {"tokens": (0, 0, most, 1), "requests": (1, 0, 0, 1)}
        # The report is balanced once the dead worker's leases are closed, and unbalanced after a charge has vanished.
        limits = wait_until(lambda: (found := get_limits(gateway))["balanced"] and found, what="a balanced ledger")
        assert limits == {
            "balanced": True, "mistakes": 0, "overdrawn": 0, "periods_checked": 2, "periods_different": 0
        }  # fmt: skip
        ActivityTables(database_url).execute("UPDATE activity SET charged_tokens = charged_tokens - 1")
        assert (get_limits(gateway)["balanced"], get_limits(gateway)["periods_different"]) == (False, 1)


def get_limits(gateway: Gateway) -> dict[str, Any]:
    report = request("GET", gateway.url + "/api/activity/integrity", headers=gateway.headers)
    limits: dict[str, Any] = report.json["limits"]
    return limits


def test_a_key_sees_its_limits_and_what_is_left_of_them(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    group = make_group(session_database_url, ("tokens", 10**6, {"time_window": "total"}), concurrent=4)
    key = make_limited_key(
        session_database_url,
        ("usd", 50, {"time_window": "month"}),
        ("usd", 5),
        group=group,
        models=["fireworks/*"],
        requests_per_minute=60,
        concurrent=8,
    )
    seen = post_chat(limited, LISTED, key=key, max_tokens=50)
    wait_for_row(session_database_url, seen.request_id)
    headers = {"Authorization": f"Bearer {key}"}
    answer = request("GET", limited.url + "/v1/key", headers=headers)
    shown = answer.json["data"]
    assert request("GET", limited.url + "/api/key", headers=headers).json["data"].keys() == shown.keys()
    assert answer.headers["cache-control"] == "no-store" and key.encode() not in answer.body
    assert shown["label"] == f"{key[:7]}…{key[-4:]}" and (shown["group"], shown["expires_at"]) == (group, None)
    assert (shown["limit"], shown["limit_reset"], shown["models"]) == (5, "daily", ["fireworks/*"])
    assert {shown[f"usage{when}"] for when in ("", "_daily", "_weekly", "_monthly")} == {float(COST)}
    budgets = {(budget["of"], budget["unit"], budget["window"]): budget for budget in shown["budgets"]}
    assert list(budgets) == [("key", "usd", "month"), ("key", "usd", "day"), ("group", "tokens", "total")]
    tokens = budgets["group", "tokens", "total"]
    assert tokens["charged"] == {"exact": 14, "estimated": 0, "ceiling": 0} and tokens["resets_at"] is None
    for budget in shown["budgets"]:
        assert budget["remaining"] == pytest.approx(
            budget["limit"] - sum(budget["charged"].values()) - budget["in_use"]
        )
    assert shown["limit_remaining"] == budgets["key", "usd", "day"]["remaining"] <= 5 - float(COST)
    assert shown["rates"] == {
        "requests_per_minute": 60, "tokens_per_minute": None, "concurrent": 4, "max_output_tokens": None
    }  # fmt: skip
    operator = request("GET", limited.url + "/v1/key", headers=limited.headers).json["data"]
    assert (operator["label"], operator["is_operator"], operator["limit"]) == ("GATEWAY_API_KEY", True, None)


def test_requests_that_come_at_once_all_get_what_one_draw_brought_them(
    limited: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    everything = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "concurrent": 1_000}
    with ThreadPoolExecutor(16) as threads:
        for _ in range(3):  # New keys, for which the worker has drawn nothing yet.
            key = make_limited_key(session_database_url, ("usd", 1_000), **everything)
            seen = [threads.submit(post_chat, limited, LISTED, key=key, max_tokens=50) for _ in range(16)]
            assert [each.result().status for each in seen] == [200] * 16
