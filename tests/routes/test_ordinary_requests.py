"""Variations in the requests of ordinary clients: codings, headers, spellings and wrong paths."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest

from tests.routes.test_chat_openai_client import openai_client
from tests.support.answers import chat_answer, json_answer
from tests.support.chat import HELLO, PREFIX, chat_body, post, post_chat, request, wait_for_row
from tests.support.gateway import GATEWAY_KEY, Gateway
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.sdks import openai
from tests.support.waiting import wait_until

MODEL = PREFIX + "ordinary"
CHAT = "/v1/chat/completions"
LIMIT = 300_000  # MAX_BODY_BYTES of `hasty_gateway`.


def asked(upstream: ScriptedUpstream) -> list[SeenRequest]:
    """Returns the chat requests that the provider saw."""
    return [seen for seen in upstream.requests if seen.path.endswith("/chat/completions")]


def body_of(size: int) -> bytes:
    return json.dumps(chat_body(MODEL)).encode().ljust(size)


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("size", [0, LIMIT])
def test_a_body_in_gzip_is_decoded_up_to_the_limit(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, coding: str, size: int
) -> None:
    hasty_upstream.reset_scripts()
    seen = post(hasty_gateway, gzip.compress(body_of(size)), headers={"Content-Encoding": coding})
    assert seen.status == 200 and asked(hasty_upstream)[0].json == chat_body(MODEL)


def test_a_body_without_a_coding_may_say_so(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert post(scripted_gateway, body_of(0), headers={"Content-Encoding": "identity"}).status == 200
    assert len(asked(upstream)) == 1


def test_a_body_that_decodes_to_more_than_the_limit_is_a_413(hasty_gateway: Gateway, session_database_url: str) -> None:
    for content in (gzip.compress(body_of(LIMIT + 1)), gzip.compress(b" " * 50_000_000)):
        assert len(content) < LIMIT
        seen = post(hasty_gateway, content, headers={"Content-Encoding": "gzip"})
        assert (seen.status, seen.error["code"]) == (413, "body_too_large")
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["status"], row["error_code"]) == ("rejected", 413, "body_too_large")


PACKED = gzip.compress(body_of(0))
BAD_GZIP = {
    "no gzip": body_of(0),
    "nothing": b"",
    "cut off": PACKED[:-9],
    "a wrong checksum": PACKED[:-8] + b"\0" * 8,
    "two members": PACKED + PACKED,
    "something behind it": PACKED + b"x",
    "zlib without gzip": zlib.compress(body_of(0)),
}


@pytest.mark.parametrize("name", BAD_GZIP)
def test_a_body_that_is_not_one_gzip_stream_is_a_400(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    seen = post(scripted_gateway, BAD_GZIP[name], headers={"Content-Encoding": "gzip"})
    assert (seen.status, seen.error["code"], asked(upstream)) == (400, "invalid_body", [])


@pytest.mark.parametrize("coding", ["zstd", "br", "deflate", "gzip, gzip", "compress"])
def test_another_coding_is_a_415_that_names_gzip(
    scripted_gateway: Gateway, session_database_url: str, coding: str
) -> None:
    seen = post(scripted_gateway, b"\x28\xb5\x2f\xfd", headers={"Content-Encoding": coding})
    assert (seen.status, seen.error["type"], seen.headers["accept-encoding"]) == (415, "invalid_request_error", "gzip")
    assert coding in seen.error["message"] and seen.error["code"] == "unsupported_content_encoding"
    assert wait_for_row(session_database_url, seen.request_id)["status"] == 415


AFFINITY = {
    "its own": ({"X-Session-Affinity": "chat-7"}, {"x-session-affinity": "chat-7"}),
    "Claude Code's": ({"X-Claude-Code-Session-Id": "cc-1"}, {"x-session-affinity": "cc-1"}),
    "both": ({"X-Claude-Code-Session-Id": "cc-1", "X-Session-Affinity": "a"}, {"x-session-affinity": "a"}),
    "a rollout's": ({"X-Multi-Turn-Session-Id": "r"}, {"x-multi-turn-session-id": "r"}),
    "none": ({}, {}),
    "an empty one": ({"X-Session-Affinity": ""}, {}),
}


@pytest.mark.parametrize("name", AFFINITY)
def test_what_leads_to_a_cached_conversation_goes_to_the_provider(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    given, expected = AFFINITY[name]
    body = json.dumps(chat_body(MODEL, prompt_cache_key="key", user="ann")).encode()
    assert post(scripted_gateway, body, headers=given).status == 200
    (seen,) = asked(upstream)
    assert {name: value for name, value in seen.headers.items() if "affinity" in name or "session" in name} == expected
    assert (seen.json["prompt_cache_key"], seen.json["user"]) == ("key", "ann")


@pytest.mark.parametrize("value", ["x" * 257, "ünï".encode("latin-1")])
def test_an_affinity_that_cannot_be_sent_is_left_out_and_named(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, value: Any
) -> None:
    seen = post(scripted_gateway, body_of(0), headers={"X-Session-Affinity": value})
    assert (seen.status, seen.headers["x-gateway-dropped-params"]) == (200, "x-session-affinity")
    assert "x-session-affinity" not in asked(upstream)[0].headers


def test_whole_numbers_with_a_point_are_sent_without_it(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert post_chat(scripted_gateway, MODEL, max_tokens=100.0, top_k=4.0, n=1.0, temperature=1.0).status == 200
    assert '"max_tokens":100,' in asked(upstream)[0].body.decode()
    sent = asked(upstream)[0].json
    assert [repr(sent[name]) for name in ("max_tokens", "top_k", "n", "temperature")] == ["100", "4", "1", "1.0"]


@pytest.mark.parametrize("value", ["no", "true", 1, 0, []])
def test_include_usage_must_be_true_or_false(scripted_gateway: Gateway, value: Any) -> None:
    seen = post_chat(scripted_gateway, MODEL, stream=True, stream_options={"include_usage": value})
    assert (seen.status, seen.error["param"]) == (400, "stream_options.include_usage")
    assert seen.error["message"] == "`stream_options.include_usage` must be true or false."


@pytest.mark.parametrize("name", ["Fireworks", "FIREWORKS"])
def test_a_providers_name_may_be_in_any_case(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, name: str
) -> None:
    seen = post_chat(scripted_gateway, MODEL, provider=name)
    assert (seen.status, seen.headers["x-gateway-provider"]) == (200, "fireworks")
    assert "provider" not in asked(upstream)[0].json
    refused = post_chat(scripted_gateway, MODEL, provider=name, temperature=3)
    assert wait_for_row(session_database_url, refused.request_id)["gateway"] == "fireworks"


def _bearer(key: str) -> str:
    return f"Bearer {key}"


KEYS = {
    "x-api-key alone": ({"X-Api-Key": GATEWAY_KEY}, 200),
    "both, the same": ({"X-Api-Key": GATEWAY_KEY, "Authorization": _bearer(GATEWAY_KEY)}, 200),
    "both, the bearer token decides": ({"X-Api-Key": "another", "Authorization": _bearer(GATEWAY_KEY)}, 200),
    "both, the bearer token is wrong": ({"X-Api-Key": GATEWAY_KEY, "Authorization": _bearer("gw_wrong")}, 401),
    "beside another scheme": ({"X-Api-Key": GATEWAY_KEY, "Authorization": "Basic YTpi"}, 200),
    "a wrong one": ({"X-Api-Key": "gw_wrong"}, 401),
    "an empty one": ({"X-Api-Key": ""}, 401),
    "none": ({}, 401),
}


@pytest.mark.parametrize("name", KEYS)
def test_the_key_may_be_in_x_api_key(scripted_gateway: Gateway, upstream: ScriptedUpstream, name: str) -> None:
    headers, status = KEYS[name]
    for method, path, more in (("GET", "/v1/models", {}), ("POST", CHAT, {"json": chat_body(MODEL)})):
        assert request(method, scripted_gateway.url + path, headers=headers, **more).status == status
    assert all("x-api-key" not in seen.headers for seen in asked(upstream))


PATHS = {
    "/chat/completions": CHAT,
    "/v1/v1/chat/completions": CHAT,
    "/v1/chat/completions/": CHAT,
    "/v1//chat/completions": CHAT,
    "/V1/Chat/Completions": CHAT,
    "/api/v1/chat/completions": CHAT,
    "/openai/v1/chat/completions": CHAT,
    "/openai/deployments/gpt/chat/completions": CHAT,
    "/models": "/v1/models",
    "/v1/v1/models": "/v1/models",
    "/v1/v1/models/" + PREFIX + "x": "/v1/models/" + PREFIX + "x",
    "/catalog/models": "/api/catalog/models",
    "/v1/api/catalog/models": "/api/catalog/models",
    "/health/": "/health",
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_404_of_a_wrong_path_names_the_right_one(scripted_gateway: Gateway, method: str, path: str) -> None:
    seen = request(method, scripted_gateway.url + path)
    assert (seen.status, seen.error["code"]) == (404, "unknown_path")
    assert f"Use {PATHS[path]!r};" in seen.error["message"]


@pytest.mark.parametrize("path", ["/nowhere", "/v1", "/v1/nothing", "/" + "a/" * 2_000])
def test_the_404_of_any_other_path_names_none(scripted_gateway: Gateway, path: str) -> None:
    seen = request("GET", scripted_gateway.url + path)
    assert (seen.status, "Use '" in seen.error["message"]) == (404, False)


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("models?gatway=fireworks", "gatway"),
        ("models?limit=1&limit=2", "limit"),
        ("models?gateway=fireworks&gateway=all", "gateway"),
        ("model/scripted?gatway=fireworks", "gatway"),
        ("model/scripted?gateway=fireworks&gateway=all", "gateway"),
    ],
)
def test_the_catalog_refuses_misspelt_and_repeated_parameters(scripted_gateway: Gateway, path: str, param: str) -> None:
    seen = request("GET", f"{scripted_gateway.url}/api/catalog/{path}")
    assert (seen.status, seen.error["type"], seen.error["param"]) == (400, "invalid_request_error", param)


def test_a_url_that_is_too_long_is_a_414_in_the_common_shape(scripted_gateway: Gateway) -> None:
    seen = request("GET", f"{scripted_gateway.url}/health?{'x' * 9_000}")
    assert (seen.status, seen.error["type"]) == (414, "invalid_request_error")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_sdk_may_retry_what_outlasts_the_gateways_retries(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    # Otherwise the request for the list of models would take the first answer.
    wait_until(lambda: '"catalog_loaded"' in scripted_gateway.log(), what="the catalog")
    failing = json_answer({"error": {"message": "busy"}}, status)
    upstream.enqueue(failing, failing, failing)
    upstream.default = chat_answer("at last")
    with openai_client(scripted_gateway, retries=1) as client:
        answer = client.chat.completions.create(model=MODEL, messages=HELLO)
    assert answer.choices[0].message.content == "at last" and len(asked(upstream)) == 4


def test_attempts_of_the_sdk_and_of_the_gateway_add_up(scripted_gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.on_model("ordinary", json_answer({"error": {"message": "busy"}}, 503, {"retry-after-ms": "50"}))
    with openai_client(scripted_gateway, retries=1) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(model=MODEL, messages=HELLO)
    assert len(asked(upstream)) == 3 + 1
    headers = caught.value.response.headers
    assert "x-should-retry" not in headers and int(headers["retry-after"]) > 0
