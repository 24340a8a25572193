"""A body over a real socket: timeouts lose nothing, a broken end is noticed, a complete body keeps its connection."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator

import pytest

from app.errors import UpstreamCut
from app.upstream.body import Body
from tests.services.inference.chat_core import client_for
from tests.support.answers import head, json_answer
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, close, drip, hang, pause, reset, send, wait_for
from tests.support.waiting import wait_until

CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def body_of(upstream: ScriptedUpstream, script: Script) -> Body:
    upstream.enqueue(script)
    return client_for(upstream.base_url).post("/chat/completions", b"{}", stream=True).body


def read_all(body: Body, timeout_s: float = 10.0) -> bytes:
    try:
        pieces = list(iter(lambda: body.receive(timeout_s), b""))
        assert body.complete and body.receive(0.001) == b""
        return b"".join(pieces)
    finally:
        body.close()


def chunks(*payloads: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(payload), payload) for payload in payloads) + last


def test_a_hundred_timeouts_in_a_row_lose_nothing(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    coded = chunks(b"first", b"second" * 50)
    body = body_of(upstream, [send(head(200, CHUNKED) + coded[:13]), wait_for(gate), drip(coded[13:], 7, 0.001)])
    received = body.receive(10)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            received += body.receive(0.0005)
    gate.open()
    while not body.complete:
        try:
            received += body.receive(0.0007)
        except TimeoutError:
            continue
    assert received == b"first" + b"second" * 50
    body.close()


def test_bytes_without_payload_do_not_extend_the_timeout(upstream: ScriptedUpstream) -> None:
    trailers = drip(b"x: 1\r\n" * 1000, 6, 0.005)
    body = body_of(upstream, [send(head(200, CHUNKED) + chunks(b"text", last=b"0\r\n")), trailers, hang()])
    assert body.receive(10) == b"text"
    with pytest.raises(TimeoutError):
        body.receive(0.05)
    assert upstream.requests[0].bytes_sent < 4000
    body.close()


@pytest.mark.parametrize("together", [True, False])
def test_a_body_that_comes_with_the_head_or_after_it_is_the_same(upstream: ScriptedUpstream, together: bool) -> None:
    start = head(200, {"content-length": "5"})
    script = (
        [send(start + b"hello")] if together else [send(start), pause(0.02), send(b"he"), pause(0.02), send(b"llo")]
    )
    assert read_all(body_of(upstream, script)) == b"hello"


def test_a_body_larger_than_one_read_comes_in_pieces(upstream: ScriptedUpstream) -> None:
    payload = bytes(range(256)) * 4000
    assert read_all(body_of(upstream, json_answer(payload))) == payload
    assert (
        read_all(body_of(upstream, [send(head(200, CHUNKED) + chunks(payload[:300_000], payload[300_000:]))]))
        == payload
    )


@pytest.mark.parametrize(
    "script",
    [
        [send(head(200, CHUNKED)), close()],
        [send(head(200, CHUNKED) + b"10\r\nhalf"), close()],
        [send(head(200, CHUNKED) + b"10\r\nhalf"), pause(0.02), reset()],
        [send(head(200, CHUNKED) + chunks(b"text", last=b"")), close()],
        [send(head(200, CHUNKED) + chunks(b"text", last=b"0\r\n")), close()],
        [send(head(200, CHUNKED) + chunks(b"text", last=b"zz\r\n")), hang()],
        [send(head(200, {"content-length": "10"}) + b"short"), close()],
        [send(head(200, {"content-length": "10"}) + b"short"), pause(0.02), reset()],
    ],
)
def test_a_body_that_ends_early_is_cut_and_its_connection_closed(upstream: ScriptedUpstream, script: Script) -> None:
    body = body_of(upstream, script)
    with pytest.raises(UpstreamCut):
        read_all(body)
    body.close()
    body.close()
    wait_until(lambda: upstream.live_connections() == 0)


@pytest.mark.parametrize("version", ["HTTP/1.0", "HTTP/1.1"])
def test_a_body_without_a_length_ends_with_its_connection(upstream: ScriptedUpstream, version: str) -> None:
    start = f"{version} 200 OK\r\ncontent-type: text/plain\r\n\r\n".encode()
    body = body_of(upstream, [send(start + b"to the "), pause(0.01), send(b"end"), close()])
    assert read_all(body) == b"to the end"
    body.close()
    wait_until(lambda: upstream.live_connections() == 0)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_a_compressed_body_is_read_although_no_compression_was_requested(
    upstream: ScriptedUpstream, coding: str
) -> None:
    payload = b"data: some text\n\n" * 100
    packed = zlib.compress(payload) if coding == "deflate" else gzip.compress(payload)
    script = json_answer(packed, headers={"content-encoding": coding})
    body = body_of(upstream, script)
    assert read_all(body) == payload
    assert upstream.requests[0].headers["accept-encoding"] == "identity"


def test_compressed_pieces_come_out_as_they_arrive(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    squeeze = zlib.compressobj(wbits=31)
    first = squeeze.compress(b"data: 1\n\n") + squeeze.flush(zlib.Z_SYNC_FLUSH)
    second = squeeze.compress(b"data: 2\n\n") + squeeze.flush()
    start = head(200, CHUNKED | {"content-encoding": "gzip"})
    body = body_of(upstream, [send(start + chunks(first, last=b"")), wait_for(gate), send(chunks(second))])
    assert body.receive(10) == b"data: 1\n\n"
    gate.open()
    assert read_all(body) == b"data: 2\n\n"


@pytest.mark.parametrize(("coding", "content"), [("gzip", b"no gzip at all"), ("br", b"\x0b\x02\x80"), ("zstd", b"(")])
def test_a_body_that_cannot_be_decompressed_is_cut(upstream: ScriptedUpstream, coding: str, content: bytes) -> None:
    body = body_of(upstream, json_answer(content, headers={"content-encoding": coding}))
    with pytest.raises(UpstreamCut, match="encoding that it declares" if coding == "gzip" else coding):
        body.receive(10)
    body.close()


def test_a_complete_body_keeps_its_connection_for_the_next_request(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    for _ in range(3):
        upstream.enqueue([send(head(200, CHUNKED) + chunks(b"text"))])
        body = client.post("/chat/completions", b"{}", stream=True).body
        assert read_all(body) == b"text"
        body.close()
        body.close()
    assert [seen.reused for seen in upstream.requests] == [False, True, True]


def test_closing_an_incomplete_body_ends_the_request(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue([send(head(200, CHUNKED) + chunks(b"text", last=b"")), hang()], json_answer(b"next"))
    body = client.post("/chat/completions", b"{}", stream=True).body
    assert body.receive(10) == b"text"
    body.close()
    upstream.wait_for(lambda seen: seen.gone_at is not None)
    assert client.post("/chat/completions", b"{}", stream=True).read(idle_timeout_s=10, deadline_s=1e12) == b"next"
    assert not upstream.requests[1].reused


def test_a_closed_body_takes_nothing_of_the_next_request(upstream: ScriptedUpstream) -> None:
    client = client_for(upstream.base_url)
    upstream.enqueue([send(head(200, CHUNKED) + chunks(b"first", last=b"")), hang()])
    closed = client.post("/chat/completions", b"{}", stream=True).body
    assert closed.receive(10) == b"first"
    closed.close()  # The pool closes the connection and opens it again for the next request.
    closed.put_back(b"again")
    gate = Gate()
    upstream.enqueue([send(head(200, CHUNKED)), wait_for(gate), send(chunks(b"second"))])
    body = client.post("/chat/completions", b"{}", stream=True).body
    gate.open()
    assert closed.receive(10) == b"again"
    with pytest.raises(UpstreamCut):
        closed.receive(1)
    assert read_all(body) == b"second"
    client.close()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_connection_that_the_provider_closes_after_the_response_is_not_kept(
    upstream: ScriptedUpstream, version: str
) -> None:
    client = client_for(upstream.base_url)
    response = f"HTTP/{version} 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok".encode()
    for _ in range(2):
        upstream.enqueue([send(response), close()])
        assert client.post("/chat/completions", b"{}", stream=False).read(idle_timeout_s=10, deadline_s=1e12) == b"ok"
    assert not upstream.requests[1].reused


@pytest.mark.parametrize("status", [204, 200])
def test_an_empty_body_is_complete_at_once(upstream: ScriptedUpstream, status: int) -> None:
    body = body_of(upstream, [send(head(status, {} if status == 204 else {"content-length": "0"}))])
    assert body.complete and body.receive(0.001) == b""
    body.close()
