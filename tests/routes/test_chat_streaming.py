"""Streams without a fault: events arrive one by one and unchanged, even at slow clients."""

from __future__ import annotations

import http.client
import json
import socket
import time

import pytest

from tests.support.answers import DONE, Event, chunk, event_bytes, json_answer, sse_stream, usage_chunk, whole_stream
from tests.support.chat import (
    PREFIX,
    chat_body,
    open_chat,
    post_chat,
    read_until,
    request_head,
    wait_for_row,
    wait_for_row_of,
)
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, pause, send, wait_for
from tests.support.waiting import PATIENCE_S

ANSWER = {"choices": [{"message": {"content": "one"}, "finish_reason": "stop"}]}


def streamed_events(*events: Event) -> bytes:
    return b"".join(event_bytes(event) for event in events if not callable(event))


def test_the_first_event_reaches_the_client_before_the_last_leaves_the_provider(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    gate = Gate()
    upstream.on_model("gated", sse_stream([chunk("one"), wait_for(gate), *whole_stream("two")]))
    with open_chat(scripted_gateway, PREFIX + "gated") as connection:
        read_until(connection, b'"one"')
        assert not upstream.wait_for(lambda seen: "gated" in str(seen.body)).finished
        gate.open()
        read_until(connection, b"[DONE]")
    gate.close()


def test_headers_of_a_stream_keep_proxies_from_holding_it_back(
    scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("headed", sse_stream(whole_stream("one"), headers={"x-request-id": "up-1"}))
    seen = post_chat(scripted_gateway, PREFIX + "headed", stream=True)
    assert seen.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert seen.headers["cache-control"] == "no-cache, no-transform"
    assert seen.headers["x-accel-buffering"] == "no"
    assert seen.headers["x-gateway-provider"] == "fireworks"
    assert seen.headers["x-gateway-model"] == PREFIX + "headed"
    assert seen.headers["x-upstream-request-id"] == "up-1" != seen.headers["x-request-id"]


@pytest.mark.parametrize("stream", [True, False])
def test_headers_that_nobody_could_pass_on_are_left_out(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, stream: bool
) -> None:
    odd = {"fireworks-note": "a\x01b", "x-request-id": "up\x02", "cf-ray": "ray-1", "fireworks-prompt-tokens": "3"}
    model = f"odd-headers-{stream}"
    upstream.on_model(
        model, sse_stream(whole_stream("one"), headers=odd) if stream else json_answer(ANSWER, headers=odd)
    )
    seen = post_chat(scripted_gateway, PREFIX + model, stream=stream)
    assert (seen.status, seen.cut) == (200, False)
    assert "fireworks-note" not in seen.headers and seen.headers["fireworks-prompt-tokens"] == "3"
    assert seen.headers["x-upstream-request-id"] == "ray-1"


# Made once, because a chunk contains the time of its creation.
ONE, END = chunk("one"), chunk(finish="stop")
HUGE = chunk("x" * 100_000)
PLAIN: list[Event] = [*map(chunk, ["Grüße, ", "世界", " 🌍", ""]), END, DONE]
SHAPES: dict[str, tuple[Script, bytes]] = {
    "one event at a time": (
        sse_stream(PLAIN),
        streamed_events(*PLAIN),
    ),
    "cut at every byte": (sse_stream(PLAIN, cut_at=1), b""),
    "gzip": (sse_stream(PLAIN, compress=True), b""),
    "gzip cut at seven bytes": (
        sse_stream(PLAIN, compress=True, cut_at=7),
        b"",
    ),
    "carriage returns": (
        sse_stream(PLAIN, newline=b"\r\n", cut_at=3),
        streamed_events(*PLAIN).replace(b"\n", b"\r\n"),
    ),
    "an event of 100,000 bytes": (
        sse_stream([HUGE, END, DONE], cut_at=9_999),
        streamed_events(HUGE, END, DONE),
    ),
    "comments between events": (
        sse_stream([b": hi\n\n", ONE, b": there\n\n", END, DONE]),
        streamed_events(b": hi\n\n", ONE, b": there\n\n", END, DONE),
    ),
    "frames that crash clients": (
        sse_stream([b"event: ping\n\n", ONE, b"data: null\n\n", END, DONE]),
        streamed_events(ONE, END, DONE),
    ),
    "events after [DONE]": (
        sse_stream([ONE, END, DONE, chunk("late"), DONE]),
        streamed_events(ONE, END, DONE),
    ),
    "a body without chunked coding": (
        [
            send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"),
            send(streamed_events(ONE, END, DONE)),
            lambda exchange: exchange.connection.shutdown(socket.SHUT_RDWR),
        ],
        streamed_events(ONE, END, DONE),
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_clients_bytes_are_the_providers_however_they_are_cut(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, shape: str
) -> None:
    script, expected = SHAPES[shape]
    upstream.on_model("shaped", script)
    seen = post_chat(scripted_gateway, PREFIX + "shaped", stream=True)
    assert seen.body == (expected or SHAPES["one event at a time"][1]) and not seen.cut
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["finish_reason"], row["bytes_out"]) == ("ok", "stop", len(seen.body))


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("place", ["event of its own", "finish", "every chunk"])
def test_usage_is_read_wherever_it_is_and_its_own_event_is_shown_only_to_who_asked(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, place: str, asked: bool
) -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    events: dict[str, list[Event]] = {
        "event of its own": [chunk("a"), chunk(finish="stop"), usage_chunk(usage), DONE],
        "finish": [chunk("a"), chunk(finish="stop", usage=usage), DONE],
        "every chunk": [chunk("a", usage=usage), chunk(finish="stop", usage=usage), usage_chunk(usage), DONE],
    }
    upstream.on_model("usage", sse_stream(events[place]))
    options = {"stream_options": {"include_usage": True}} if asked else {}
    seen = post_chat(scripted_gateway, PREFIX + "usage", stream=True, **options)

    assert upstream.wait_for(lambda seen: "usage" in str(seen.body)).json["stream_options"] == {"include_usage": True}
    shown = [event for event in events[place] if asked or not isinstance(event, dict) or event["choices"]]
    assert seen.body == streamed_events(*shown)
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (5, 2, "provider")


def test_a_silent_stream_gets_comments_between_events_only(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream
) -> None:
    half, rest = event_bytes(ONE)[:20], event_bytes(ONE)[20:]
    hasty_upstream.on_model("silent", sse_stream([pause(0.8), half, pause(0.8), rest, pause(0.8), END, DONE]))
    seen = post_chat(hasty_gateway, PREFIX + "silent", stream=True)
    assert seen.events.count(b": keep-alive") >= 3
    wanted = streamed_events(ONE, END, DONE)
    assert seen.body.replace(b": keep-alive\n\n", b"") == wanted and not seen.cut


def test_a_connection_serves_the_next_request_however_long_it_idled_after_a_stream(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream
) -> None:
    hasty_upstream.on_model("again", sse_stream(whole_stream("one")))
    body = json.dumps(chat_body(PREFIX + "again", stream=True)).encode()
    with open_chat(hasty_gateway, PREFIX + "again") as connection:
        read_until(connection, b"\r\n0\r\n\r\n")
        connection.settimeout(1.5)
        with pytest.raises(TimeoutError):  # Neither data nor a close arrives for longer than a write may take.
            connection.recv(1)
        connection.settimeout(PATIENCE_S)
        connection.sendall(request_head(hasty_gateway, len(body)) + body)
        assert read_until(connection, b"\r\n0\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")
    first, second = [seen for seen in hasty_upstream.requests if "again" in str(seen.body)]
    assert first.connection == second.connection
    assert "Traceback" not in hasty_gateway.log() and "Socket error" not in hasty_gateway.log()


@pytest.mark.parametrize("length", [900, 100_000])
def test_a_client_that_falls_behind_gets_every_byte_in_order(
    scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str, length: int
) -> None:
    # More bytes than all buffers on the way hold, in events that fit into one buffer or do not.
    events: list[Event] = [chunk(f"{number:06d}" + "x" * length) for number in range(20_000_000 // length)]
    model = f"{PREFIX}behind-{length}"
    upstream.on_model(model, sse_stream([*events, END, usage_chunk(), DONE]))
    with open_chat(scripted_gateway, model, stream_options={"include_usage": True}) as connection:
        upstream.wait_for(lambda seen: model in str(seen.body) and seen.bytes_sent > 0)
        pause_s = 1.5  # Longer than a tick of the relay, so that it checks its limits while the client does not read.
        time.sleep(pause_s)
        with http.client.HTTPResponse(connection) as answer:
            answer.begin()
            received = answer.read()
    assert received == streamed_events(*events, END, usage_chunk(), DONE)
    row = wait_for_row_of(session_database_url, model)
    assert (row["outcome"], row["bytes_out"]) == ("ok", len(received))


def test_a_client_that_stops_reading_is_dropped(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    model = PREFIX + "flood"
    hasty_upstream.on_model(model, sse_stream([chunk("x" * 100_000)] * 400))
    with open_chat(hasty_gateway, model):
        gone = hasty_upstream.wait_for(lambda seen: model in str(seen.body) and seen.gone_at is not None)
        assert gone.bytes_sent < 40_000_000
        assert wait_for_row_of(session_database_url, model)["outcome"] == "client_gone"
    assert "Traceback" not in hasty_gateway.log()
