"""A provider's client: the request that it sends, the response that it returns, and an error for every failure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnreachable
from app.upstream import Response
from tests.services.inference.chat_core import KEY, client_for
from tests.support.answers import head, json_answer, redirect
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import Script, close, drip, hang, reset, send
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def read(response: Response, **options: Any) -> bytes:
    return response.read(**{"idle_timeout_s": 10, "deadline_s": time.monotonic() + 10, **options})


def test_a_request_is_sent_as_it_is(upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    body = '{"model": "m", "x": "é\\ud83c\\udf0d"}'.encode()
    upstream.enqueue(json_answer({}, headers={"x-request-id": "r-1", "set-cookie": "a=b"}))
    client = client_for(upstream.base_url)
    response = client.post("/chat/completions", body, stream=True)
    assert read(response) == b"{}"
    assert (response.status, response.request_id, response.headers["x-request-id"]) == (200, "r-1", "r-1")
    read(client.post("/chat/completions", b"{}", stream=False))
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


def refuse(status: int, **headers: str) -> Script:
    """Returns the script of a provider that refuses a request with an HTTP status."""
    return json_answer({"error": {"message": "no"}}, status=status, headers=headers)


def test_the_next_key_is_used_where_one_is_refused_or_limited(
    upstream: ScriptedUpstream, capfd: pytest.CaptureFixture[str]
) -> None:
    client = client_for(upstream.base_url, keys=["fw_a", "fw_b", "fw_c"])

    def ask(*scripts: Script) -> tuple[int, str]:
        """Returns the status of a request, and the keys with which it was sent."""
        upstream.enqueue(*scripts)
        before = len(upstream.requests)
        try:
            response = client.post("/chat/completions", b'{"n": 1}', stream=False, headers={"x-more": "1"})
            read(response)
            status = response.status
        except UpstreamError as error:
            status = error.upstream_status or 0
        sent = upstream.requests[before:]
        assert {(seen.body, seen.headers["x-more"]) for seen in sent} == {(b'{"n": 1}', "1")}
        return status, "".join(seen.headers["authorization"][-1] for seen in sent)

    good = json_answer({})
    assert ask(good) == (200, "a")
    assert ask(refuse(401), refuse(429), good) == (200, "abc")
    assert ask(good) == (200, "c"), "the key that was accepted stays in use"
    assert ask(refuse(402), good) == (200, "ca")
    assert ask(refuse(429), refuse(400)) == (400, "ab"), "the key was accepted, and the request refused"
    assert ask(refuse(500)) == (500, "b"), "not the key's fault"
    assert ask(refuse(403), refuse(429), refuse(401)) == (429, "bca"), "waiting helps, so the caller is told"
    assert ask(refuse(403), refuse(401), refuse(401)) == (403, "bca")
    logged = [line for line in capfd.readouterr().err.splitlines() if "provider_key_switched" in line]
    assert len(logged) == 1 and '"position":3' in logged[0] and "fw_" not in logged[0]
    single = client_for(upstream.base_url, keys=["fw_a"])
    upstream.enqueue(refuse(429))
    before = len(upstream.requests)
    with pytest.raises(UpstreamError):
        single.post("/chat/completions", b"{}", stream=False)
    assert len(upstream.requests) == before + 1


def test_any_path_and_further_headers_can_be_sent(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    read(client.post("/embeddings", b"{}", stream=False, headers={"x-session-affinity": "a", "Accept": "text/plain"}))
    seen = upstream.requests[0]
    assert (seen.method, seen.path) == ("POST", "/inference/v1/embeddings")
    assert (seen.headers["x-session-affinity"], seen.headers["accept"]) == ("a", "text/plain")
    assert seen.headers["content-type"] == "application/json"


def test_a_large_body_is_sent_whole(upstream: ScriptedUpstream) -> None:
    body = b"x" * 3_000_000
    read(client_for(upstream.base_url).post("/chat/completions", body, stream=False))
    assert upstream.requests[0].body == body


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(upstream: ScriptedUpstream, status: int) -> None:
    with ScriptedUpstream() as elsewhere:
        upstream.enqueue(redirect(elsewhere.base_url, status))
        with pytest.raises(UpstreamError) as caught:
            client_for(upstream.base_url).post("/chat/completions", b"{}", stream=False)
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
def test_a_failure_before_the_response_is_an_upstream_error(upstream: ScriptedUpstream, failure: str) -> None:
    script, kind, code = FAILURES[failure]
    upstream.enqueue(script)
    with pytest.raises(kind) as caught:
        client_for(upstream.base_url, UPSTREAM_FIRST_BYTE_TIMEOUT="0.2").post("/chat/completions", b"{}", stream=False)
    error = caught.value
    assert (error.code, error.status) == (code, 504 if kind is UpstreamTimeout else 502)
    assert error.upstream_status is None and not error.is_retryable
    wait_until(lambda: upstream.live_connections() == 0)


def test_a_refused_connection_and_an_unknown_host_may_be_retried() -> None:
    with refused_address() as base_url, pytest.raises(UpstreamUnreachable) as caught:
        client_for(base_url).post("/chat/completions", b"{}", stream=False)
    assert (caught.value.code, caught.value.is_retryable) == ("upstream_unreachable", True)
    with pytest.raises(UpstreamUnreachable) as caught:
        client_for("http://no-such-host.invalid/v1").post("/chat/completions", b"{}", stream=False)
    assert (caught.value.code, caught.value.is_retryable) == ("upstream_unreachable", True)


def test_a_connection_that_is_not_accepted_is_a_connect_timeout() -> None:
    with unanswered_address() as base_url, pytest.raises(UpstreamTimeout) as caught:
        client_for(base_url, UPSTREAM_CONNECT_TIMEOUT="0.1").post("/chat/completions", b"{}", stream=False)
    assert (caught.value.code, caught.value.status) == ("upstream_connect_timeout", 504)
    assert caught.value.is_retryable


@pytest.mark.parametrize("framed", [True, False])
def test_an_error_response_is_read_and_its_connection_kept(upstream: ScriptedUpstream, framed: bool) -> None:
    content = b'{"error": {"message": "No such parameter", "param": "x"}}'
    chunked = head(400, {"transfer-encoding": "chunked"}) + b"%x\r\n%b\r\n0\r\n\r\n" % (len(content), content)
    upstream.enqueue([send(chunked)] if framed else json_answer(content, 400))
    client = client_for(upstream.base_url)
    with pytest.raises(UpstreamRefused) as caught:
        client.post("/chat/completions", b"{}", stream=True)
    assert (caught.value.status, caught.value.message, caught.value.param) == (400, "No such parameter", "x")
    read(client.post("/chat/completions", b"{}", stream=True))
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
def test_an_error_response_that_cannot_be_read_still_has_its_status(upstream: ScriptedUpstream, script: Script) -> None:
    upstream.enqueue(script)
    with pytest.raises(UpstreamRefused) as caught:
        client_for(upstream.base_url).post("/chat/completions", b"{}", stream=True)
    assert (caught.value.status, caught.value.type) == (429, "rate_limit_error")


def test_a_document_is_fetched_with_its_query_and_from_this_host_only(upstream: ScriptedUpstream) -> None:
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
