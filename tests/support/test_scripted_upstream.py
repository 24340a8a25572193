"""The scripted upstream runs its scripts and notices actions of its peers, on which other tests rely."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.support.answers import DONE, chunk, json_answer, redirect, sse_stream, whole_stream
from tests.support.scripted_upstream import ScriptedUpstream, refused_address, unanswered_address
from tests.support.scripts import Gate, drip, hang, reset, send, wait_for
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def post(session: requests.Session, upstream: ScriptedUpstream, model: str = "m", **more: Any) -> requests.Response:
    more.setdefault("timeout", 20)
    return session.post(f"{upstream.base_url}/chat/completions", json={"model": model}, **more)


def test_a_response_keeps_the_connection_open_and_the_request_is_recorded(
    upstream: ScriptedUpstream, session: requests.Session
) -> None:
    assert post(session, upstream).json()["choices"][0]["message"]["content"] == "Hello from the script."
    upstream.enqueue(json_answer({"error": "é"}, 418, {"retry-after": "3"}))
    second = post(session, upstream, headers={"X-Marker": "here"})

    assert (second.status_code, second.json(), second.headers["retry-after"]) == (418, {"error": "é"}, "3")
    seen = upstream.wait_for_count(2)
    assert [request.reused for request in seen] == [False, True]
    assert seen[1].headers["x-marker"] == "here" and seen[1].json == {"model": "m"}
    assert seen[0].path == "/inference/v1/chat/completions"
    assert upstream.connections == 1


def test_a_body_in_chunks_is_read_whole(upstream: ScriptedUpstream, session: requests.Session) -> None:
    parts = iter([b'{"model":', b' "in-chunks"}'])
    session.post(f"{upstream.base_url}/chat/completions", data=parts, timeout=20)
    assert upstream.requests[0].json == {"model": "in-chunks"}


def test_the_queue_precedes_the_longest_marker_and_that_precedes_the_path(
    upstream: ScriptedUpstream, session: requests.Session
) -> None:
    upstream.on_path("/chat/completions", json_answer("path"))
    upstream.on_model("slow", json_answer("slow"))
    upstream.on_model("slow-start", json_answer("slow-start"))
    upstream.enqueue(json_answer("queue"))
    responses = [post(session, upstream, model).json() for model in ("a", "a-slow-start", "a-slow", "a")]
    assert responses == ["queue", "slow-start", "slow", "path"]
    listed = session.get(f"{upstream.base_url}/models?limit=1", timeout=20).json()
    assert listed["data"][0]["id"] == "accounts/fireworks/models/scripted"


@pytest.mark.parametrize("cut_at", [None, 1, 7, 4096])
@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_a_stream_arrives_the_same_in_chunks_of_any_size(
    upstream: ScriptedUpstream, session: requests.Session, cut_at: int | None, compress: bool, newline: bytes
) -> None:
    upstream.enqueue(sse_stream(whole_stream("héllo 🌍"), cut_at=cut_at, compress=compress, newline=newline))
    body = post(session, upstream).content
    first = body.split(newline)[0].removeprefix(b"data: ")
    assert json.loads(first)["choices"][0]["delta"]["content"] == "héllo 🌍"
    assert body.endswith(DONE.replace(b"\n", newline))


def test_a_gate_holds_the_rest_of_a_stream_back(upstream: ScriptedUpstream, session: requests.Session) -> None:
    gate = Gate()
    upstream.enqueue(sse_stream([chunk("one"), wait_for(gate), chunk("two"), DONE]))
    with post(session, upstream, stream=True) as response:
        events = response.iter_content(None)
        assert b"one" in next(events)
        assert not upstream.requests[0].finished
        gate.open()
        assert b"two" in b"".join(events)
    assert upstream.wait_for(lambda seen: seen.finished).gone_at is None


@pytest.mark.parametrize("ending", ["fin", "reset", "half chunk", "bad chunk"])
def test_a_broken_ending_breaks_the_peer(upstream: ScriptedUpstream, session: requests.Session, ending: str) -> None:
    upstream.enqueue(sse_stream([chunk("one")], ending=ending))
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)):
        _ = post(session, upstream).content


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_peer_that_disconnects_is_noticed_during_a_wait(upstream: ScriptedUpstream, abruptly: bool) -> None:
    upstream.enqueue(sse_stream([chunk("one"), hang()]))
    with socket.create_connection(("127.0.0.1", upstream.port)) as peer:
        peer.sendall(b"POST /chat/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}")
        wait_until(lambda: b"one" in peer.recv(65_536))
        if abruptly:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    seen = upstream.wait_for(lambda seen: seen.gone_at is not None)
    assert not seen.finished and seen.bytes_sent > 0
    wait_until(lambda: upstream.live_connections() == 0)


def test_a_peer_that_does_not_read_holds_the_sender_back(upstream: ScriptedUpstream) -> None:
    upstream.enqueue([send(b"x" * 50_000_000)])
    with socket.create_connection(("127.0.0.1", upstream.port)) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        upstream.wait_for(lambda seen: seen.bytes_sent > 0)
        peer.recv(1)
    assert upstream.wait_for(lambda seen: seen.gone_at is not None).bytes_sent < 50_000_000


def test_a_reset_on_accept_sends_nothing(upstream: ScriptedUpstream, session: requests.Session) -> None:
    upstream.on_accept = [reset()]
    with pytest.raises(requests.exceptions.ConnectionError):
        post(session, upstream)
    assert upstream.requests == [] and upstream.connections == 1


def test_dripped_bytes_make_one_response(upstream: ScriptedUpstream, session: requests.Session) -> None:
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    upstream.enqueue([drip(response, 5, 0.001)])
    assert post(session, upstream).text == "ok"


def test_a_redirect_has_its_location(upstream: ScriptedUpstream, session: requests.Session) -> None:
    upstream.enqueue(redirect("http://127.0.0.1:9/", 308))
    response = post(session, upstream, allow_redirects=False)
    assert (response.status_code, response.headers["location"]) == (308, "http://127.0.0.1:9/")


def test_an_upstream_that_reads_nothing_lets_the_peer_wait() -> None:
    with (
        ScriptedUpstream(reads=False) as upstream,
        socket.create_connection(("127.0.0.1", upstream.port)) as peer,
    ):
        wait_until(lambda: upstream.connections == 1)
        peer.settimeout(0.05)
        with pytest.raises(TimeoutError):
            peer.sendall(b"x" * 50_000_000)


def test_addresses_that_refuse_and_that_never_accept() -> None:
    with refused_address() as url, pytest.raises(requests.exceptions.ConnectionError, match="refused"):
        requests.get(url, timeout=5)
    with unanswered_address() as url, pytest.raises(requests.exceptions.ConnectTimeout):
        requests.get(url, timeout=(0.2, 5))


def test_a_thousand_concurrent_connections_all_get_a_response(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.default = [wait_for(gate), *json_answer("ok")]
    peers = [socket.create_connection(("127.0.0.1", upstream.port)) for _ in range(1000)]
    for peer in peers:
        peer.sendall(b"GET /held HTTP/1.1\r\n\r\n")
    upstream.wait_for_count(1000)
    assert upstream.live_connections() == 1000
    gate.open()
    responses = [peer.recv(65_536) for peer in peers]
    for peer in peers:
        peer.close()
    assert all(response.endswith(b'"ok"') for response in responses)


def test_closing_ends_every_script_and_thread() -> None:
    before = threading.active_count()
    with ScriptedUpstream() as upstream:
        upstream.default = [hang()]
        peers = [socket.create_connection(("127.0.0.1", upstream.port)) for _ in range(20)]
        for peer in peers:
            peer.sendall(b"GET / HTTP/1.1\r\n\r\n")
        upstream.wait_for_count(20)
    assert threading.active_count() == before
    assert all(peer.recv(1) == b"" for peer in peers)
    for peer in peers:
        peer.close()
