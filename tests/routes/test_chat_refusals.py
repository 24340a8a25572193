"""Refusals by the chat endpoint itself: bodies, keys, sizes and models, with the error shape and the row of each."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.chat import (
    PREFIX,
    chat_body,
    post,
    post_chat,
    read_until,
    request,
    request_head,
    rows_where,
    wait_for_row,
)
from tests.support.gateway import GATEWAY_KEY, Gateway
from tests.support.scripted_upstream import ScriptedUpstream

MODEL = PREFIX + "scripted"
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"hello",
    "cut off": b'{"model": "x", "messages": [',
    "two documents": b'{"model": "x"} {"model": "y"}',
    "a list": b"[1, 2]",
    "a text": b'"hello"',
    "null": b"null",
    "NaN": b'{"model": "x", "messages": [{}], "temperature": NaN}',
    "infinity": b'{"model": "x", "messages": [{}], "temperature": 1e999}',
    "not UTF-8": b'{"model": "\xff\xfe", "messages": [{}]}',
    "UTF-16": json.dumps({"model": "x", "messages": [{}]}).encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps({"model": "x", "messages": [{}]}).encode(),
    "lone surrogate without an escape": b'{"model": "x", "messages": [{"content": "\xed\xa0\x80"}]}',
    "deep lists": b'{"model": "x", "messages": ' + b"[" * 100 + b"]" * 100 + b"}",
    "very deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 70 + b"1" + b"}" * 70,
    "duplicate key": b'{"model": "x", "messages": [], "model": "y"}',
    "duplicate key inside": b'{"model": "x", "messages": [{"role": "user", "content": "a", "content": "b"}]}',
    "duplicate key by an escape": b'{"model": "x", "messages": [{}], "mod\\u0065l": "y"}',
    "a form": b"model=x&messages=y",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_not_one_plain_json_object_is_a_400(scripted_gateway: Gateway, name: str) -> None:
    seen = post(scripted_gateway, BAD_BODIES[name])
    assert (seen.status, seen.error["type"]) == (400, "invalid_request_error")
    assert seen.error["code"] == ("duplicate_key" if name.startswith("duplicate") else "invalid_json")
    assert seen.headers["content-type"] == "application/json"


BAD_FIELDS: list[tuple[str, Any]] = [
    ("model", None),
    ("model", ""),
    ("model", 7),
    ("model", "x" * 501),
    ("model", "a\nb"),
    ("messages", None),
    ("messages", []),
    ("messages", "hi"),
    ("messages", {"role": "user"}),
    ("messages[0]", ["hi"]),
    ("provider", 7),
    ("provider", "nobody"),
    ("max_tokens", 0),
    ("max_tokens", "10"),
    ("max_tokens", 1.5),
    ("max_completion_tokens", -1),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "hot"),
    ("temperature", True),
    ("top_p", 1.1),
    ("top_k", 1.5),
    ("top_k", 101),
    ("presence_penalty", 3),
    ("frequency_penalty", -3),
    ("n", 0),
    ("n", 129),
    ("stream", "yes"),
    ("stream", 1),
    ("stream_options", [1]),
    ("service_tier", 5),
]


@pytest.mark.parametrize(("param", "value"), BAD_FIELDS, ids=str)
def test_a_field_of_the_wrong_kind_is_a_400_that_names_it(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, param: str, value: Any
) -> None:
    field = "messages" if param == "messages[0]" else param
    seen = post(scripted_gateway, json.dumps(chat_body(MODEL) | {field: value}).encode())
    assert (seen.status, seen.error["type"], seen.error["param"]) == (400, "invalid_request_error", param)
    assert not upstream.requests


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "top_p", "top_k", "n", "stream", "stream_options"])
def test_null_counts_as_absent(scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str) -> None:
    assert post_chat(scripted_gateway, MODEL, **{name: None}).status == 200


def test_a_refused_request_has_a_row_that_says_why(scripted_gateway: Gateway, session_database_url: str) -> None:
    unread, wrong = post(scripted_gateway, b"hello"), post_chat(scripted_gateway, MODEL, temperature=3)
    named = post_chat(scripted_gateway, MODEL, provider="fireworks", temperature=3)
    for seen, model, gateway, code in (
        (unread, None, None, "invalid_json"),
        # Fields are checked before routing, so the row names no gateway unless the request does.
        (wrong, MODEL, None, "invalid_parameter"),
        (named, MODEL, "fireworks", "invalid_parameter"),
    ):
        row = wait_for_row(session_database_url, seen.request_id)
        assert (row["outcome"], row["status"], row["error_type"]) == ("rejected", 400, "invalid_request_error")
        assert (row["model_requested"], row["gateway"], row["error_code"]) == (model, gateway, code)
        assert (row["attempts"], row["usage_source"]) == ([], "none")
        # Nothing was sent to the provider, so the cost is known to be zero.
        assert (row["cost_usd"], row["cost_kind"]) == (0, "exact")


KEYS = {
    "no header": (None, "missing_api_key"),
    "an empty key": ("Bearer ", "missing_api_key"),
    "another scheme": ("Basic Z3c6dGVzdA==", "missing_api_key"),
    "a key without a scheme": (GATEWAY_KEY, "missing_api_key"),
    "a wrong key": ("Bearer gw_wrong", "invalid_api_key"),
    "the provider's key": ("Bearer fw_test", "invalid_api_key"),
    "the key and more": (f"Bearer {GATEWAY_KEY}2", "invalid_api_key"),
    "the key in capitals": (f"Bearer {GATEWAY_KEY.upper()}", "invalid_api_key"),
    "no ASCII": ("Bearer gw_t\xebst_operator_key", "invalid_api_key"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_request_without_a_good_key_is_a_401_without_a_row(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, name: str
) -> None:
    value, code = KEYS[name]
    headers = {} if value is None else {"Authorization": value.encode("latin-1")}
    url = f"{scripted_gateway.url}/v1/chat/completions"
    seen = request("POST", url, headers=headers, json=chat_body(f"{PREFIX}no-key"))
    assert (seen.status, seen.error["type"], seen.error["code"]) == (401, "authentication_error", code)
    assert seen.request_id and not upstream.requests
    after = post_chat(scripted_gateway, MODEL)
    wait_for_row(session_database_url, after.request_id)
    assert rows_where(session_database_url, "model_requested", f"{PREFIX}no-key") == []


def test_bearer_may_be_written_in_any_case(scripted_gateway: Gateway) -> None:
    seen = post(
        scripted_gateway, json.dumps(chat_body(MODEL)).encode(), headers={"Authorization": f"bEARER  {GATEWAY_KEY}"}
    )
    assert seen.status == 200


@pytest.mark.parametrize("announced", [300_001, 10**12])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(hasty_gateway: Gateway, announced: int) -> None:
    with socket.create_connection(("127.0.0.1", hasty_gateway.port), timeout=20) as connection:
        connection.sendall(request_head(hasty_gateway, announced))
        answer = read_until(connection, b"}}")
    assert answer.startswith(b"HTTP/1.1 413 ") and b'"code":"body_too_large"' in answer


def test_a_chunked_body_is_refused_as_soon_as_it_is_too_large(
    hasty_gateway: Gateway, session_database_url: str
) -> None:
    def endless() -> Iterator[bytes]:
        # Three times the limit, so that the test would end even if the gateway read everything.
        yield from (b" " * 10_000 for _ in range(90))

    seen = post(hasty_gateway, endless())
    assert (seen.status, seen.error["type"], seen.error["code"]) == (413, "invalid_request_error", "body_too_large")
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["status"], row["error_code"]) == ("rejected", 413, "body_too_large")


def test_a_body_of_just_the_limit_is_taken(hasty_gateway: Gateway) -> None:
    content = json.dumps(chat_body(PREFIX + "limit")).encode()
    assert post(hasty_gateway, content.ljust(300_000)).status == 200
