"""Every request, whatever its path, has the common error shape, a request id, and one line in the log."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.support.chat import PREFIX, chat_body, post_chat, request
from tests.support.gateway import Gateway
from tests.support.waiting import wait_until

CHAT = "/v1/chat/completions"


def lines_of(gateway: Gateway, request_id: str) -> list[dict[str, Any]]:
    """Waits for the log line of a request, and returns all its lines."""

    def found() -> list[dict[str, Any]]:
        lines = [line for line in gateway.log().splitlines() if request_id in line]
        return [json.loads(line) for line in lines if line.endswith("}")]

    return wait_until(found, what=f"the log line of {request_id}")


@pytest.mark.parametrize("path", ["/v1", "/v1/chat", "/v2", "/nowhere", CHAT + "/", "/%00", "/a b"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_unknown_path_is_a_404_in_the_common_error_shape(gateway: Gateway, path: str, method: str) -> None:
    seen = request(method, gateway.url + path)
    assert (seen.status, seen.error["type"], seen.error["code"]) == (404, "not_found_error", "unknown_path")
    assert seen.headers["content-type"] == "application/json" and seen.request_id


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_another_method_is_a_405_that_lists_the_allowed_ones(gateway: Gateway, method: str) -> None:
    seen = request(method, gateway.url + CHAT, headers=gateway.headers)
    assert (seen.status, seen.error["type"], seen.error["code"]) == (405, "invalid_request_error", "method_not_allowed")
    assert set(seen.headers["allow"].split(", ")) == {"POST", "OPTIONS"} and "POST" in seen.error["message"]


def test_a_response_without_a_body_has_length_zero(gateway: Gateway) -> None:
    seen = request("OPTIONS", gateway.url + CHAT, headers=gateway.headers)
    assert (seen.status, seen.body, seen.headers["content-length"]) == (200, b"", "0")
    assert "transfer-encoding" not in seen.headers


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "a header without a colon": b"GET /health HTTP/1.1\r\nhost gateway\r\n\r\n",
    "a line that is too long": b"GET /" + b"a" * 5_000 + b" HTTP/1.1\r\n\r\n",
    "a header that is too long": b"GET /health HTTP/1.1\r\nx: " + b"a" * 8_200 + b"\r\n\r\n",
    "too many headers": b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 200 + b"\r\n",
    "two lengths": b"POST /health HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
    "a length that is not a number": b"POST /health HTTP/1.1\r\ncontent-length: ten\r\n\r\n",
    "both lengths and chunks": (
        b"POST /health HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "an unknown coding": b"POST /health HTTP/1.1\r\ntransfer-encoding: rot13\r\n\r\n",
    "HTTP/9": b"GET /health HTTP/9.9\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_request_that_is_not_http_is_refused_in_json_and_its_connection_closed(gateway: Gateway, name: str) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(MALFORMED[name])
        response = b""
        while piece := connection.recv(65_536):
            response += piece
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}
    assert request("GET", gateway.url + "/health").status == 200


def test_a_body_with_broken_chunks_is_a_400(gateway: Gateway) -> None:
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {gateway.key}\r\n"
        "transfer-encoding: chunked\r\n\r\nzz\r\n"
    )
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as connection:
        connection.sendall(head.encode())
        response = connection.recv(65_536)
    assert response.startswith(b"HTTP/1.1 400 ")


def test_every_response_has_its_own_request_id(gateway: Gateway) -> None:
    urls = [gateway.url + path for path in ("/health", "/ready", "/nowhere", "/v1/models", "/health")]
    ids = [request("GET", url).request_id for url in urls]
    assert len(set(ids)) == 5 and all(len(request_id) == 36 for request_id in ids)


@pytest.mark.parametrize("path", ["/nowhere", "/v1/models"])
def test_each_request_is_one_line_of_json_in_the_log(gateway: Gateway, path: str) -> None:
    seen = request("GET", gateway.url + path)
    (line,) = lines_of(gateway, seen.request_id)
    assert (line["event"], line["path"], line["status"]) == ("request", path, seen.status)
    assert line["duration_ms"] >= 0
    refused = {"error_code": "missing_api_key", "client": "127.0.0.1", "level": "warning"}
    expected = refused if seen.status == 401 else {"level": "info"}
    assert {name: line.get(name) for name in expected} == expected and ("client" in line) == (seen.status == 401)


def test_probes_are_not_logged_and_failures_have_their_level(gateway: Gateway) -> None:
    probes = [request("GET", gateway.url + path) for path in ("/health", "/ready", "/metrics", "/")]
    failed = [post_chat(gateway, PREFIX + model) for model in ("sandbox-500", "deepseek-v3p9")]
    levels = [lines_of(gateway, seen.request_id)[0]["level"] for seen in failed]
    assert levels == ["warning", "info"] and {seen.status for seen in probes} == {200}
    assert not any(seen.request_id in gateway.log() for seen in probes)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_is_one_log_line_with_its_usage(gateway: Gateway, stream: bool) -> None:
    seen = post_chat(gateway, PREFIX + "deepseek-v3p1", stream=stream)
    (line,) = lines_of(gateway, seen.request_id)
    assert (line["event"], line["path"], line["status"], line["outcome"]) == ("request", CHAT, 200, "ok")
    assert (line["key"], line["gateway"], line["stream"]) == ("env", "fireworks", stream)
    assert line["prompt_tokens"] > 0 and line["completion_tokens"] > 0 and line["cost_usd"]


def test_a_failed_chat_is_one_log_line_without_a_traceback(gateway: Gateway) -> None:
    failed = [
        post_chat(gateway, PREFIX + "sandbox-500"),
        post_chat(gateway, PREFIX + "sandbox-reset-after-3", stream=True),
        post_chat(gateway, PREFIX + "sandbox-garbage", stream=True),
        post_chat(gateway, PREFIX + "sandbox-no-done", max_tokens=5000),
        post_chat(gateway, "deepseek-v3p9"),
        request("POST", gateway.url + CHAT, headers=gateway.headers, data=b"nonsense"),
        request("POST", gateway.url + CHAT, json=chat_body("x")),
    ]
    for seen in failed:
        (line,) = lines_of(gateway, seen.request_id)
        assert line["event"] == "request"
    assert "Traceback" not in gateway.log()


def test_a_line_end_in_a_path_does_not_make_a_second_log_line(gateway: Gateway) -> None:
    seen = request("GET", gateway.url + "/a%0A%7B%22event%22:%22forged%22%7D")
    assert lines_of(gateway, seen.request_id)[0]["path"] == '/a\n{"event":"forged"}'
    assert not any(line.startswith('{"event":"forged"') for line in gateway.log().splitlines())
