"""Connections: kept while they are good, closed before the provider closes them, and verified over TLS."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import UpstreamRefused, UpstreamUnreachable
from app.upstream import UpstreamClient
from app.upstream import connection_pool as pool
from app.upstream.connection_pool import broke_reused_connection, get_tls_context
from tests.services.inference.chat_core import client_for
from tests.support.answers import json_answer
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Step, close, pause, reset, send
from tests.support.tls_server import tls_server
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def ask(client: UpstreamClient) -> bytes:
    return client.post("/chat/completions", b"{}", stream=False).read(idle_timeout_s=10, deadline_s=1e12)


def test_one_connection_serves_request_after_request(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    for _ in range(5):
        ask(client)
    assert upstream.connections == 1 and [seen.reused for seen in upstream.requests] == [False, *[True] * 4]


def test_concurrent_requests_have_a_connection_each_and_all_are_kept(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    received = [client.post("/chat/completions", b"{}", stream=False) for _ in range(20)]
    for response in received:
        response.read(idle_timeout_s=10, deadline_s=1e12)
    assert upstream.connections == 20
    for _ in range(20):
        ask(client)
    assert upstream.connections == 20


def test_a_closed_client_keeps_no_connection_but_lets_responses_end(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    in_use = client.post("/chat/completions", b"{}", stream=False)
    ask(client)
    client.close()
    wait_until(lambda: upstream.live_connections() == 1)
    in_use.read(idle_timeout_s=10, deadline_s=1e12)
    wait_until(lambda: upstream.live_connections() == 0)


def test_a_connection_that_was_idle_for_long_is_not_used(
    upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_for(upstream.base_url)
    ask(client)
    monkeypatch.setattr(pool, "MAX_IDLE_S", 0.0)
    ask(client)
    assert upstream.connections == 2
    wait_until(lambda: upstream.live_connections() == 1)


@pytest.mark.parametrize(
    ("end", "left_open"),
    [(close(), 0), (reset(), 0), (send(b"HTTP/1.1 408 Request Timeout\r\n\r\n"), 1)],
)
def test_a_connection_that_the_provider_closed_meanwhile_is_not_used(
    upstream: ScriptedUpstream, end: Step, left_open: int
) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue([*json_answer({}), pause(0.02), end])
    ask(client)
    upstream.wait_for(lambda seen: seen.finished)
    wait_until(lambda: upstream.live_connections() == left_open)
    client.post("/chat/completions", b"{}", stream=False).body.close()
    assert not upstream.requests[1].reused


@pytest.mark.parametrize("end", [close(), reset()])
def test_a_reused_connection_that_breaks_is_told_apart_from_a_new_one(upstream: ScriptedUpstream, end: Step) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue(json_answer({}), [end], [end])
    ask(client)
    for reused in (True, False):
        with pytest.raises(UpstreamUnreachable) as caught:
            ask(client)
        assert upstream.requests[-1].reused is reused
        assert broke_reused_connection(caught.value) is reused and caught.value.is_retryable is reused


def test_a_kept_connection_that_breaks_inside_a_response_is_not_retryable(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue(json_answer({}), [send(b"HTTP/1.1 200 OK\r\n"), close()])
    ask(client)
    with pytest.raises(UpstreamUnreachable) as caught:
        ask(client)
    assert upstream.requests[1].reused and not caught.value.is_retryable


def test_a_response_before_the_request_was_read_counts(upstream: ScriptedUpstream) -> None:
    upstream.on_accept = [*json_answer({"error": "too large"}, 413, {"connection": "close"}), close()]
    client = client_for(upstream.base_url)
    with pytest.raises(UpstreamRefused) as caught:
        client.post("/chat/completions", b"x" * 3_000_000, stream=False)
    assert caught.value.status == 413


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost"])
def test_the_host_header_names_host_and_port(upstream: ScriptedUpstream, address: str) -> None:
    ask(client_for(f"http://{address}:{upstream.port}/v1"))
    seen = upstream.requests[0]
    assert seen.headers["host"] == f"{address}:{upstream.port}" and seen.path == "/v1/chat/completions"


@pytest.fixture
def trusted(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The certificate, trusted by this process as an authority during one test."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    get_tls_context.cache_clear()
    yield certificate
    get_tls_context.cache_clear()


PIECES = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r", b"\nhel", b"lo\r\n", b"0\r\n\r\n"]


def test_tls_works_with_the_authority_of_the_environment_and_keeps_its_connection(trusted: tuple[Path, Path]) -> None:
    with tls_server(*trusted, PIECES) as (port, counts):
        client = client_for(f"https://127.0.0.1:{port}/v1")
        assert [ask(client) for _ in range(3)] == [b"hello"] * 3
        assert counts == [3]
        client.close()


def test_many_timeouts_lose_nothing_over_tls(trusted: tuple[Path, Path]) -> None:
    with tls_server(*trusted, PIECES, every_s=0.1) as (port, _):
        client = client_for(f"https://127.0.0.1:{port}/v1")
        body = client.post("/chat/completions", b"{}", stream=True).body
        received, timeouts = b"", 0
        while not body.complete:
            try:
                received += body.receive(0.002)
            except TimeoutError:
                timeouts += 1
        assert received == b"hello" and timeouts >= 5
        body.close()
        client.close()


def test_an_unknown_authority_is_refused(certificate: tuple[Path, Path]) -> None:
    get_tls_context.cache_clear()
    with tls_server(*certificate, PIECES) as (port, counts), pytest.raises(UpstreamUnreachable) as caught:
        ask(client_for(f"https://127.0.0.1:{port}/v1"))
    assert caught.value.code == "upstream_tls_error" and not caught.value.is_retryable
    assert sum(counts) == 0, "the key was not sent"


def test_a_certificate_of_another_host_is_refused(trusted: tuple[Path, Path]) -> None:
    with tls_server(*trusted, PIECES) as (port, counts), pytest.raises(UpstreamUnreachable) as caught:
        ask(client_for(f"https://localhost:{port}/v1"))
    assert caught.value.code == "upstream_tls_error" and sum(counts) == 0


def test_a_provider_without_tls_is_a_tls_error(upstream: ScriptedUpstream) -> None:
    upstream.on_accept = [send(b"HTTP/1.1 400 Bad Request\r\n\r\n"), close()]
    with pytest.raises(UpstreamUnreachable) as caught:
        ask(client_for(f"https://127.0.0.1:{upstream.port}/v1"))
    assert caught.value.code in {"upstream_tls_error", "upstream_connection_lost"}


def test_there_is_one_context_and_it_checks_names() -> None:
    assert get_tls_context() is get_tls_context()
    assert get_tls_context().verify_mode == ssl.CERT_REQUIRED and get_tls_context().check_hostname
