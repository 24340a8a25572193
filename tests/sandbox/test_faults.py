"""Each model that misbehaves does so as documented."""

import socket
import struct
import time
from itertools import islice
from urllib.parse import urlsplit

import pytest
import requests

from app.sandbox.behaviours import Behaviour, describe_behaviours, parse_behaviour
from tests.sandbox.client import KEY, PREFIX, Server, join_text, parse_events
from tests.support.waiting import wait_until


def test_the_index_lists_every_behaviour(server: Server) -> None:
    index = server.get("/", key=None).json()
    assert set(index["models_that_misbehave"]) == {PREFIX + name for name in describe_behaviours()}


@pytest.mark.parametrize(
    ("name", "status", "text"),
    [
        ("401", 401, "The API key you provided is invalid."),
        ("402", 402, "PAYMENT_REQUIRED"),
        ("403", 403, "no access"),
        ("404", 404, "Model not found, inaccessible, and/or not deployed"),
        ("412", 412, "Account sandbox-account is suspended, possibly due to reaching"),
        ("422", 422, '{"detail":[{"loc":["body","messages"]'),
        ("429", 429, "rate limit exceeded, please try again later"),
        ("500", 500, "server had an error while processing your request"),
        ("502-html", 502, "<html>"),
        ("503", 503, "service overloaded, please try again later"),
        ("503-scaling", 503, "DEPLOYMENT_SCALING_UP"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_error_model_responds_with_its_status(
    server: Server, name: str, status: int, text: str, stream: bool
) -> None:
    with server.misbehave(f"sandbox-{name}", stream=stream) as response:
        assert response.status_code == status
        assert text in response.text
        assert "retry-after" not in response.headers
        is_html = response.headers["content-type"].startswith("text/html")
        assert is_html == (name == "502-html")


def test_a_429_has_the_measured_limits_and_may_have_retry_after(server: Server) -> None:
    headers = server.misbehave("sandbox-429").headers
    assert headers["x-ratelimit-remaining-tokens-generated"] == "0"
    assert server.misbehave("sandbox-429-retry-after").headers["retry-after"] == "2"
    assert server.misbehave("sandbox-429-retry-after-7").headers["retry-after"] == "7"


def test_flaky_fails_once_for_each_prompt(server: Server) -> None:
    for prompt in ("one", "two"):
        messages = [{"role": "user", "content": prompt}]
        statuses = [server.misbehave("sandbox-flaky", messages=messages).status_code for _ in range(3)]
        assert statuses == [503, 200, 200]
    statuses = [server.misbehave("sandbox-flaky-2").status_code for _ in range(3)]
    assert statuses == [503, 503, 200]


def test_slow_headers_are_late(server: Server) -> None:
    started = time.monotonic()
    with server.misbehave("sandbox-slow-headers-0.3", stream=True):
        assert time.monotonic() - started >= 0.3


def test_a_slow_first_token_comes_after_the_headers(server: Server) -> None:
    with server.misbehave("sandbox-slow-first-token-60", stream=True) as response:
        assert response.status_code == 200  # The first event would take a minute.
    started = time.monotonic()
    events = server.stream(PREFIX + "sandbox-slow-first-token-0.3")
    assert time.monotonic() - started >= 0.3
    assert events[-1] == "[DONE]"


def test_a_stall_sends_some_events_and_then_nothing(server: Server) -> None:
    for name, count in (("sandbox-stall", 3), ("sandbox-stall-5", 5)):
        # 300 ms without an event are over a thousand times the pause between two events here.
        text, ended = read_raw(server, name, timeout_s=0.3)
        assert (text.count(b"data: "), ended) == (count, False)


def test_a_cut_stream_ends_without_its_last_chunk(server: Server) -> None:
    cut = server.get_stats()["streams_cut"]
    for name, count in (("sandbox-cut-after-3", 3), ("sandbox-cut-after-7", 7), ("sandbox-cut-after-0", 0)):
        text, ended = read_raw(server, name)
        assert (text.count(b"data: "), ended) == (count, True)
        assert b"200 OK" in text and not text.endswith(b"\r\n0\r\n\r\n")
    wait_until(lambda: server.get_stats()["streams_cut"] == cut + 3)


def test_a_reset_stream_ends_in_a_connection_reset(server: Server) -> None:
    with pytest.raises(ConnectionResetError):
        read_raw(server, "sandbox-reset-after-3")


def read_raw(server: Server, name: str, timeout_s: float = 10.0) -> tuple[bytes, bool]:
    """Streams from a misbehaving model on a bare socket.

    Returns all bytes until the connection ended or `timeout_s` seconds passed without one, and whether it ended.
    """
    address = urlsplit(server.url)
    body = b'{"model":"%s","stream":true,"messages":[{"role":"user","content":"Hi"}]}' % (PREFIX + name).encode()
    head = f"POST /inference/v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
    head += f"Content-Length: {len(body)}\r\n\r\n"
    received = b""
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=timeout_s) as sock:
        sock.sendall(head.encode() + body)
        try:
            while piece := sock.recv(65536):
                received += piece
        except TimeoutError:
            return received, False
    return received, True


@pytest.mark.parametrize("name", ["sandbox-cut-after-3", "sandbox-reset-after-3"])
def test_an_unstreamed_response_is_cut_in_half(server: Server, name: str) -> None:
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        server.misbehave(name)


def test_a_clean_end_has_neither_a_finish_reason_nor_done(server: Server) -> None:
    events = server.stream(PREFIX + "sandbox-clean-end")
    assert len(events) == 3 and "[DONE]" not in events
    assert all(event["choices"][0]["finish_reason"] is None for event in events)


def test_no_done_has_a_finish_reason_but_no_done(server: Server) -> None:
    events = server.stream(PREFIX + "sandbox-no-done")
    assert events[-1]["choices"][0]["finish_reason"] == "stop"
    assert "[DONE]" not in events


def test_an_error_event_ends_the_stream(server: Server) -> None:
    *events, error = server.stream(PREFIX + "sandbox-error-event")
    assert len(events) == 3
    assert set(error) == {"error"}
    assert error["error"]["code"] == error["error"]["type"] == "internal_server_error"
    assert server.misbehave("sandbox-error-event").status_code == 500


def test_garbage_is_neither_sse_nor_json(server: Server) -> None:
    with server.misbehave("sandbox-garbage", stream=True) as response:
        assert b"data: {not json\n\n" in response.content
        assert b"\xff\xfe" in response.content
    response = server.misbehave("sandbox-garbage")
    assert response.status_code == 200
    with pytest.raises(requests.JSONDecodeError):
        response.json()


def test_drip_sends_one_byte_at_a_time(server: Server) -> None:
    with server.misbehave("sandbox-drip-2000", stream=True) as response:
        pieces = list(islice(response.raw.stream(decode_content=False), 20))
    assert [len(piece) for piece in pieces] == [1] * 20
    assert server.misbehave("sandbox-drip-20000").json()["object"] == "chat.completion"


def test_a_huge_event_has_the_requested_size(server: Server) -> None:
    for name, size in (("sandbox-huge-event", 100_000), ("sandbox-huge-event-20", 20)):
        events = server.stream(PREFIX + name)
        assert join_text(events) == "x" * size
        assert len(events) == 4


def test_crlf_ends_lines_with_crlf_and_has_comments(server: Server) -> None:
    with server.misbehave("sandbox-crlf", stream=True) as response:
        body = response.content
    assert body.count(b"\n") == body.count(b"\r\n")
    assert b"\r\n\r\n: a comment\r\n\r\n" in body
    assert parse_events(body.replace(b"\r\n", b"\n"))[-1] == "[DONE]"


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("accounts/fireworks/models/sandbox-cut-after-7", Behaviour("cut-after", 7)),
        ("sandbox/sandbox-429", Behaviour("429", 0)),
        ("sandbox-slow-first-token-0.5", Behaviour("slow-first-token", 0.5)),
        ("sandbox-503-scaling", Behaviour("503-scaling", 0)),
        ("sandbox-503-2", None),
        ("sandbox-nothing", None),
        ("glm-5p3", None),
    ],
)
def test_a_name_is_read_with_its_number(model: str, expected: Behaviour | None) -> None:
    assert parse_behaviour(model) == expected


def test_an_early_reset_by_the_client_does_no_harm(server: Server) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=10) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.sendall(b"POST /inference/v1/chat/completions HTTP/1.1\r\nContent-Length: 100\r\n\r\n{")
    assert server.chat().status_code == 200
