"""The activity row of a chat request, column by column, as PostgreSQL holds it."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

import pytest
import requests

from tests.support.answers import DONE, chunk, json_answer, sse_stream, usage_of
from tests.support.chat import PREFIX, chat_body, post, post_chat, request, rows_where, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import pause
from tests.support.user_keys import make_key
from tests.support.waiting import wait_until

MODEL = PREFIX + "deepseek-v3p1"
# The prices that the sandbox lists, in USD per token: prompt, cached, completion.
PROMPT, CACHED, COMPLETION = Decimal("0.56e-6"), Decimal("0.28e-6"), Decimal("1.68e-6")
# A system prompt of eleven words that two requests share, so that the sandbox reports cached tokens.
CANARY = "zanzibar-canary"


def cost_of(row: dict[str, Any]) -> Decimal:
    """Returns a row's cost in USD, computed from its tokens."""
    cached = row["cached_tokens"] or 0
    return (row["prompt_tokens"] - cached) * PROMPT + cached * CACHED + row["completion_tokens"] * COMPLETION


def test_the_row_of_an_unstreamed_answer(gateway: Gateway, session_database_url: str) -> None:
    before = datetime.datetime.now(datetime.UTC)
    seen = post_chat(gateway, "deepseek-v3p1", temperature=0.5)
    row = wait_for_row(session_database_url, seen.request_id)
    usage = seen.json["usage"]

    assert before <= row["started_at"] <= datetime.datetime.now(datetime.UTC)
    assert (row["key_id"], row["gateway"], row["endpoint"]) == ("env", "fireworks", "/v1/chat/completions")
    assert (row["model_requested"], row["model_served"]) == ("deepseek-v3p1", MODEL)
    assert (row["stream"], row["status"], row["outcome"], row["finish_reason"]) == (False, 200, "ok", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert row["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert (row["usage_source"], row["cost_kind"], row["cost_usd"]) == ("provider", "exact", cost_of(row))
    assert row["cost_usd"] > 0 and row["price_source"] and row["price_date"] == before.date()
    assert row["duration_ms"] > 0 and row["tokens_per_second"] > 0 and row["ttft_ms"] is None
    assert (row["error_type"], row["error_code"], row["attempts"]) == (None, None, [])
    assert (row["upstream_status"], row["upstream_request_id"]) == (200, seen.headers["x-upstream-request-id"])


def test_the_row_of_a_streamed_answer(gateway: Gateway, session_database_url: str) -> None:
    seen = post_chat(gateway, MODEL, stream=True, stream_options={"include_usage": True})
    row = wait_for_row(session_database_url, seen.request_id)
    usage = json.loads(seen.events[-2].removeprefix(b"data: "))["usage"]

    assert (row["stream"], row["status"], row["outcome"], row["finish_reason"]) == (True, 200, "ok", "stop")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (row["usage_source"], row["cost_kind"], row["cost_usd"]) == ("provider", "exact", cost_of(row))
    assert (row["events"], row["bytes_out"]) == (len(seen.events) - 1, len(seen.body))
    assert 0 < row["ttft_ms"] < row["duration_ms"] and 0 < row["longest_gap_ms"] < row["duration_ms"]
    # Unknown if all output arrived at once, as may happen on a busy machine.
    assert row["tokens_per_second"] is None or row["tokens_per_second"] > 0


def test_cached_and_reasoning_tokens_are_counted_and_priced(gateway: Gateway, session_database_url: str) -> None:
    messages = [{"role": "system", "content": "word " * 600}, {"role": "user", "content": "Hi"}]
    post_chat(gateway, MODEL, messages=messages)
    row = wait_for_row(session_database_url, post_chat(gateway, MODEL, messages=messages).request_id)
    usage = post_chat(gateway, MODEL, messages=messages).json["usage"]
    assert row["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"] > 0
    assert row["cost_usd"] == cost_of(row)


def test_speed_is_completion_tokens_over_generation_time(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    finish = chunk(finish="stop", usage=usage_of(5, 10))
    events = [pause(0.3), chunk("a"), pause(0.2), chunk("b"), pause(0.3), chunk("c"), pause(0.4), finish, DONE]
    upstream.on_model("paced", sse_stream(events))
    row = wait_for_row(session_database_url, post_chat(scripted_gateway, PREFIX + "paced", stream=True).request_id)
    # The speed covers the time from the first output to the last, without the waits before and after.
    generation_ms = row["completion_tokens"] / row["tokens_per_second"] * 1000
    assert row["ttft_ms"] >= 300 and 0 < generation_ms <= row["duration_ms"] - row["ttft_ms"]
    assert row["longest_gap_ms"] < row["duration_ms"] - row["ttft_ms"] + 1


def test_what_fireworks_says_of_its_time_is_the_speed_of_an_unstreamed_answer(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    said = {"fireworks-server-processing-time": "3.5", "fireworks-server-time-to-first-token": "0.5"}
    body = {"choices": [{"message": {"content": "hi"}}], "usage": usage_of(5, 60)}
    upstream.on_model("timed", json_answer(body, headers=said))
    row = wait_for_row(session_database_url, post_chat(scripted_gateway, PREFIX + "timed").request_id)
    assert math.isclose(row["tokens_per_second"], 20)


def test_a_model_without_a_price_costs_an_unknown_sum_and_not_zero(
    scripted_gateway: Gateway, session_database_url: str
) -> None:
    row = wait_for_row(session_database_url, post_chat(scripted_gateway, PREFIX + "nobody-sells-it").request_id)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (11, 3, "provider")
    assert (row["cost_usd"], row["cost_kind"], row["price_source"]) == (None, "unknown", None)


def test_what_is_counted_instead_of_told_is_priced_as_an_estimate(gateway: Gateway, session_database_url: str) -> None:
    row = wait_for_row(session_database_url, post_chat(gateway, PREFIX + "sandbox-cut-after-3", stream=True).request_id)
    assert (row["outcome"], row["usage_source"]) == ("upstream_cut", "counted")
    assert (
        row["prompt_tokens"] > 0 and row["completion_tokens"] == 2
    )  # The first of the three events has the role only.
    assert row["cost_kind"] in {"estimated", "unknown"}


@pytest.mark.parametrize("stream", [False, True])
def test_no_word_of_a_conversation_is_on_the_row_or_in_the_log(
    gateway: Gateway, session_database_url: str, stream: bool
) -> None:
    messages = [{"role": "user", "content": f"Say {CANARY}"}]
    seen = post_chat(gateway, MODEL, messages=messages, stream=stream, user=CANARY, metadata={"a": CANARY})
    failed = post_chat(gateway, PREFIX + "sandbox-400", messages=messages, stream=stream)
    refused = post(gateway, json.dumps(chat_body(MODEL, messages=CANARY)).encode())
    assert CANARY in seen.body.decode().replace('"},"finish', "") or stream
    for answer in (seen, failed, refused):
        row = wait_for_row(session_database_url, answer.request_id)
        assert CANARY not in str(row)
    assert CANARY not in gateway.log()


def test_the_sdks_count_of_its_retries_is_on_the_row(scripted_gateway: Gateway, session_database_url: str) -> None:
    content = json.dumps(chat_body(PREFIX + "retried")).encode()
    for sent, noted in (("2", 2), ("nonsense", None), ("-1", None)):
        seen = post(scripted_gateway, content, headers={"x-stainless-retry-count": sent})
        assert wait_for_row(session_database_url, seen.request_id)["client_retry"] == noted


def test_a_retry_is_linked_to_what_it_repeats_and_its_page_says_what_that_cost(
    gateway: Gateway, session_database_url: str
) -> None:
    """Both attempts are served, so the first is paid in vain; equal requests without the SDK's count are not linked."""
    key = make_key(session_database_url, "retrier")
    id = key.split("_")[1]
    content = json.dumps(chat_body(MODEL, messages=[{"role": "user", "content": "Count to three. " * 1000}])).encode()
    other_end = content.replace(b'. "', b'! "')
    assert len(other_end) == len(content) and other_end != content

    def send(body: bytes, number: int | None) -> str:
        counted = {} if number is None else {"x-stainless-retry-count": str(number)}
        return post(gateway, body, key=key, headers=counted | {"user-agent": "OpenAI/Python 2.0"}).request_id

    first, plain, different, retry = send(content, 0), send(content, None), send(other_end, 0), send(content, 1)
    wait_until(lambda: wait_for_row(session_database_url, retry)["retry_of"], what="the link")
    rows = {each: wait_for_row(session_database_url, each) for each in (first, plain, different, retry)}
    assert (rows[retry]["retry_of"], rows[first]["retried_by"]) == (first, retry)
    assert rows[first]["body_digest"] == rows[retry]["body_digest"] and len(rows[first]["body_digest"]) == 16
    assert rows[different]["body_digest"] not in {None, rows[first]["body_digest"]}
    assert rows[plain]["body_digest"] is rows[plain]["client_agent"] is rows[different]["client_agent"] is None

    report = request("GET", f"{gateway.url}/api/activity/retries", headers={"Authorization": f"Bearer {key}"}).json
    (client,) = report["clients"]
    assert (client["key"], client["client_agent"], client["outcomes"]) == (id, "OpenAI/Python 2.0", {"ok": 1})
    assert (report["repeated_attempts"], Decimal(str(client["repeated_cost"]))) == (1, rows[first]["cost_usd"])
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Origin"] = gateway.url
        session.post(f"{gateway.url}/dashboard/sign-in", data={"key": key}, timeout=30)
        page = session.get(f"{gateway.url}/dashboard/requests/{retry}", timeout=30).text
    assert f"dashboard/requests/{first}" in page and "The client sent this request 2 times" in page


def test_the_gateway_decides_the_request_id_and_each_request_has_one_row(
    scripted_gateway: Gateway, session_database_url: str
) -> None:
    content = json.dumps(chat_body(PREFIX + "same-id")).encode()
    ids = {post(scripted_gateway, content, headers={"x-request-id": "mine"}).request_id for _ in range(5)}
    assert len(ids) == 5 and "mine" not in ids
    for request_id in ids:
        wait_for_row(session_database_url, request_id)
    rows = rows_where(session_database_url, "model_requested", PREFIX + "same-id")
    assert {row["request_id"] for row in rows} == ids
