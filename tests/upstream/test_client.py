"""One way to a provider: what is sent, what comes back, and an error of ours for everything that goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import UpstreamCut, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from app.upstream.client import Answer
from tests.services.inference.chat_core import KEY, client_for
from tests.support.answers import head, json_answer, redirect
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import Script, close, drip, hang, reset, send
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def read(answer: Answer, **options: Any) -> bytes:
    return answer.read(**{"idle_timeout_s": 10, "deadline_s": time.monotonic() + 10, **options})


def test_a_chat_request_is_sent_as_it_is(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    body = '{"model": "m", "x": "é\\ud83c\\udf0d"}'.encode()
    upstream.enqueue(json_answer({}, headers={"x-request-id": "r-1", "set-cookie": "a=b"}))
    client = client_for(upstream.base_url)
    answer = client.post_chat(body, stream=True)
    assert read(answer) == b"{}"
    assert (answer.status, answer.request_id, answer.headers["x-request-id"]) == (200, "r-1", "r-1")
    read(client.post_chat(b"{}", stream=False))
    first, second = upstream.requests
    assert (first.method, first.path, first.body) == ("POST", "/inference/v1/chat/completions", body)
    assert first.headers == {
        "host": f"127.0.0.1:{upstream.port}",
        "authorization": f"Bearer {KEY}",
        "user-agent": first.headers["user-agent"],
        "accept-encoding": "identity",
        "content-type": "application/json",
        "accept": "text/event-stream",
        "content-length": str(len(body)),
    }
    assert second.headers["accept"] == "application/json" and "cookie" not in second.headers
    assert "python" not in first.headers["user-agent"]


def test_a_large_body_is_sent_whole(upstream: ScriptedUpstream) -> None:
    body = b"x" * 3_000_000
    read(client_for(upstream.base_url).post_chat(body, stream=False))
    assert upstream.requests[0].body == body


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(upstream: ScriptedUpstream, status: int) -> None:
    with ScriptedUpstream() as elsewhere:
        upstream.enqueue(redirect(elsewhere.base_url, status))
        with pytest.raises(UpstreamError) as caught:
            client_for(upstream.base_url).post_chat(b"{}", stream=False)
        assert (caught.value.status, caught.value.upstream_status, caught.value.should_retry) == (502, status, False)
        assert elsewhere.connections == 0


FAILURES: dict[str, tuple[Script, type[UpstreamError], str]] = {
    "closes": ([close()], UpstreamUnreachable, "upstream_connection_lost"),
    "resets": ([reset()], UpstreamUnreachable, "upstream_connection_lost"),
    "closes inside the head": (
        [send(b"HTTP/1.1 200 OK\r\ncon"), close()],
        UpstreamUnreachable,
        "upstream_connection_lost",
    ),
    "speaks something else": ([send(b"SSH-2.0-x\r\n\r\n"), close()], UpstreamUnreachable, "upstream_connection_lost"),
    "hangs": ([hang()], UpstreamTimeout, "upstream_first_byte_timeout"),
    "hangs inside the head": ([send(b"HTTP/1.1 200 OK\r\n"), hang()], UpstreamTimeout, "upstream_first_byte_timeout"),
    "drips its head": ([drip(b"HTTP/1.1 200 OK\r\n" * 50, 1, 0.01)], UpstreamTimeout, "upstream_first_byte_timeout"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_a_provider_that_fails_before_its_answer_has_an_error_of_ours(upstream: ScriptedUpstream, failure: str) -> None:
    script, kind, code = FAILURES[failure]
    upstream.enqueue(script)
    with pytest.raises(kind) as caught:
        client_for(upstream.base_url, UPSTREAM_FIRST_BYTE_TIMEOUT="0.2").post_chat(b"{}", stream=False)
    error = caught.value
    assert (error.code, error.status) == (code, 504 if kind is UpstreamTimeout else 502)
    assert error.upstream_status is None and not error.is_retryable
    wait_until(lambda: upstream.live_connections() == 0)


def test_a_refused_connection_and_an_unknown_host_may_be_tried_again() -> None:
    with refused_address() as base_url, pytest.raises(UpstreamUnreachable) as caught:
        client_for(base_url).post_chat(b"{}", stream=False)
    assert (caught.value.code, caught.value.is_retryable) == ("upstream_unreachable", True)
    with pytest.raises(UpstreamUnreachable) as caught:
        client_for("http://no-such-host.invalid/v1").post_chat(b"{}", stream=False)
    assert (caught.value.code, caught.value.is_retryable) == ("upstream_unreachable", True)


def test_a_connection_that_is_not_taken_is_a_timeout_of_its_own() -> None:
    with unanswered_address() as base_url, pytest.raises(UpstreamTimeout) as caught:
        client_for(base_url, UPSTREAM_CONNECT_TIMEOUT="0.1").post_chat(b"{}", stream=False)
    assert (caught.value.code, caught.value.status) == ("upstream_connect_timeout", 504)
    assert caught.value.is_retryable


@pytest.mark.parametrize("framed", [True, False])
def test_an_error_answer_is_read_and_its_connection_kept(upstream: ScriptedUpstream, framed: bool) -> None:
    content = b'{"error": {"message": "No such parameter", "param": "x"}}'
    chunked = head(400, {"transfer-encoding": "chunked"}) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    upstream.enqueue([send(chunked)] if framed else json_answer(content, 400))
    client = client_for(upstream.base_url)
    with pytest.raises(UpstreamRefused) as caught:
        client.post_chat(b"{}", stream=True)
    assert (caught.value.status, caught.value.message, caught.value.param) == (400, "No such parameter", "x")
    read(client.post_chat(b"{}", stream=True))
    assert upstream.requests[1].reused


@pytest.mark.parametrize(
    "script",
    [
        json_answer(b"\x0b\x02", 429, {"content-encoding": "br"}),
        json_answer(b"no gzip", 429, {"content-encoding": "gzip"}),
        json_answer(b"x" * 100_000, 429),
        [send(head(429, {"content-length": "500"}) + b'{"error'), close()],
        [send(head(429, {"transfer-encoding": "chunked"}) + b"zz\r\n"), close()],
        json_answer(b"", 429),
    ],
)
def test_an_error_answer_that_cannot_be_read_still_has_its_status(upstream: ScriptedUpstream, script: Script) -> None:
    upstream.enqueue(script)
    with pytest.raises(UpstreamRefused) as caught:
        client_for(upstream.base_url).post_chat(b"{}", stream=True)
    assert (caught.value.status, caught.value.type) == (429, "rate_limit_error")


def test_an_answer_is_bounded_in_time_and_size(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    start = head(200, {"transfer-encoding": "chunked"})
    upstream.enqueue([send(start + b"1\r\nx\r\n"), hang()])
    with pytest.raises(UpstreamTimeout) as caught:
        read(client.post_chat(b"{}", stream=False), idle_timeout_s=0.05)
    assert caught.value.code == "upstream_idle_timeout"
    upstream.enqueue([send(start), drip(b"1\r\nx\r\n" * 500, 6, 0.005)])
    with pytest.raises(UpstreamTimeout) as caught:
        read(client.post_chat(b"{}", stream=False), deadline_s=time.monotonic() + 0.1)
    assert caught.value.code == "upstream_total_timeout"
    upstream.enqueue(json_answer(b"x" * 1001))
    with pytest.raises(UpstreamError, match="more than 1000 bytes"):
        read(client.post_chat(b"{}", stream=False), max_bytes=1000)
    upstream.enqueue([send(head(200, {"content-length": "5"}) + b"x"), close()])
    with pytest.raises(UpstreamCut):
        read(client.post_chat(b"{}", stream=False))
    wait_until(lambda: upstream.live_connections() == 0)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{", b'{"a": NaN}', b'"\xff"', b"[" * 100_000])
def test_an_answer_that_is_not_json_says_so(upstream: ScriptedUpstream, content: bytes) -> None:
    upstream.enqueue(json_answer(content))
    with pytest.raises(UpstreamError, match="not JSON"):
        client_for(upstream.base_url).fetch_json("/models")


def test_a_document_is_fetched_with_its_query_and_from_this_host_alone(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue(json_answer([1]), json_answer([1]))
    assert client.fetch_json("/models", {"page token": "a&b=é"}) == [1]
    assert client.fetch_json(f"http://127.0.0.1:{upstream.port}/v1/serverless/models") == [1]
    assert [seen.path for seen in upstream.requests] == [
        "/inference/v1/models?page+token=a%26b%3D%C3%A9",
        "/v1/serverless/models",
    ]
    assert upstream.requests[0].method == "GET" and upstream.requests[0].body == b""
    for url in ("http://127.0.0.1:9/v1", "https://127.0.0.1/v1", f"http://127.0.0.1:{upstream.port}@evil.invalid/"):
        with pytest.raises(ValueError, match="no other host"):
            client.fetch_json(url)
