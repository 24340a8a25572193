"""Responses: limits on reading a body whole, and the provider's id for the request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from requests.structures import CaseInsensitiveDict

from app.config import load_settings
from app.errors import UpstreamCut, UpstreamError, UpstreamTimeout
from app.upstream import Response, UpstreamClient
from app.upstream.response import MAX_RESPONSE_ELEMENTS, get_request_id
from tests.services.inference.chat_core import client_for
from tests.support.answers import head, json_answer
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import close, drip, hang, pause, send
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def read(response: Response, **options: Any) -> bytes:
    return response.read(**{"idle_timeout_s": 10, "deadline_s": time.monotonic() + 10, **options})


def test_reading_is_limited_in_time_and_size(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    start = head(200, {"transfer-encoding": "chunked"})
    upstream.enqueue([send(start + b"1\r\nx\r\n"), hang()])
    with pytest.raises(UpstreamTimeout) as caught:
        read(client.post("/chat/completions", b"{}", stream=False), idle_timeout_s=0.05)
    assert caught.value.code == "upstream_idle_timeout"
    upstream.enqueue([send(start), drip(b"1\r\nx\r\n" * 500, 6, 0.005)])
    with pytest.raises(UpstreamTimeout) as caught:
        read(client.post("/chat/completions", b"{}", stream=False), deadline_s=time.monotonic() + 0.1)
    assert caught.value.code == "upstream_total_timeout"
    upstream.enqueue(json_answer(b"x" * 1001))
    with pytest.raises(UpstreamError, match="more than 1000 bytes"):
        read(client.post("/chat/completions", b"{}", stream=False), max_bytes=1000)
    upstream.enqueue([send(head(200, {"content-length": "5"}) + b"x"), close()])
    with pytest.raises(UpstreamCut):
        read(client.post("/chat/completions", b"{}", stream=False))
    wait_until(lambda: upstream.live_connections() == 0)


@pytest.mark.parametrize("content", [b"", b"<html>", b"{", b'{"a": nan}', b"\xff", b"[" * 100_000])
def test_a_body_that_is_not_json_is_an_error(upstream: ScriptedUpstream, content: bytes) -> None:
    upstream.enqueue(json_answer(content))
    with pytest.raises(UpstreamError, match="not JSON"):
        client_for(upstream.base_url).fetch_json("/models")


def test_a_fetched_document_has_texts_that_can_be_stored(upstream: ScriptedUpstream) -> None:
    upstream.enqueue(json_answer(b'{"name": "\\ud83d", "price": NaN, "other": "\xff"}'))
    fetched = client_for(upstream.base_url).fetch_json("/models")
    assert fetched == {"name": "\ufffd", "price": None, "other": "\ufffd"}


def test_what_was_looked_at_is_received_all_the_same(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue([send(head(200, {"content-length": "6"}) + b"abc"), pause(0.05), send(b"def")])
    response = client.post("/chat/completions", b"{}", stream=False)
    assert b"abcdef".startswith(response.peek(5.0)) and response.peek(5.0)
    assert read(response) == b"abcdef"
    upstream.enqueue([send(head(200, {"content-length": "3"})), pause(0.2), send(b"abc")])
    response = client.post("/chat/completions", b"{}", stream=False)
    assert response.peek(0.01) == b""
    assert read(response) == b"abc"


def test_looking_at_a_body_that_ends_at_once_hides_no_error(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    brotli = {"content-length": "6", "content-encoding": "br"}
    for script in ([send(head(200, {"content-length": "6"})), close()], [send(head(200, brotli) + b"abcdef")]):
        upstream.enqueue(script)
        response = client.post("/chat/completions", b"{}", stream=False)
        assert response.peek(5.0) == b""
        with pytest.raises(UpstreamCut):
            read(response)


def test_the_request_id_is_the_first_printable_one_of_the_headers() -> None:
    names = ("x-request-id", "x-provider-id", "cf-ray")
    headers = CaseInsensitiveDict({"X-Provider-Id": "two", "cf-ray": "three"})
    assert get_request_id(headers, names) == "two"
    assert get_request_id({"cf-ray": "three"}, names) == "three"
    assert get_request_id({"x-request-id": "", "x-provider-id": "\x07", "cf-ray": "three"}, names) == "three"
    assert get_request_id({}, names) is None
    assert get_request_id({"x-request-id": "x" * 500}, names) == "x" * 300


def test_a_provider_may_have_a_header_of_its_own_for_the_request_id(upstream: ScriptedUpstream) -> None:
    client = UpstreamClient(
        title="Provider",
        base_url=upstream.base_url,
        api_keys=["key"],
        key_setting="KEY",
        settings=load_settings({}),
        request_id_headers=("x-provider-id",),
    )
    upstream.enqueue(json_answer({}, headers={"x-provider-id": "own", "x-request-id": "other"}))
    response = client.post("/chat/completions", b"{}", stream=False)
    assert read(response) == b"{}" and response.request_id == "own"
    upstream.enqueue(json_answer({}, 500, headers={"x-provider-id": "own"}))
    with pytest.raises(UpstreamError) as caught:
        client.post("/chat/completions", b"{}", stream=False)
    assert caught.value.upstream_request_id == "own"


def test_a_response_of_too_many_elements_is_refused(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    for count in (MAX_RESPONSE_ELEMENTS - 1, MAX_RESPONSE_ELEMENTS):
        upstream.enqueue(json_answer(b"[" + b"[]," * (count - 1) + b"[]]"))
        response = client.post("/chat/completions", b"{}", stream=False)
        if count < MAX_RESPONSE_ELEMENTS:
            assert len(response.read_json(idle_timeout_s=10, deadline_s=time.monotonic() + 10)) == count
            continue
        with pytest.raises(UpstreamError, match="2,000,000 objects, arrays and keys"):
            response.read_json(idle_timeout_s=10, deadline_s=time.monotonic() + 10)
