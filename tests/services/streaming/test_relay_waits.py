"""A silent stream: heartbeats between events, the idle and the total timeout, and a client that disconnects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from app.errors import ClientGone, UpstreamTimeout
from app.services.endpoints import CHAT
from tests.services.inference.chat_core import open_relay, run_relay
from tests.support.answers import DONE, chunk, event_bytes, sse_stream
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Step, drip, hang, pause, wait_for

assert CHAT.stream is not None
HEARTBEAT = CHAT.stream.heartbeat


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


class DisconnectingClient:
    """A client that is connected for the first `checks` checks."""

    def __init__(self, checks: int) -> None:
        self.checks = checks

    def is_gone(self) -> bool:
        self.checks -= 1
        return self.checks < 0


LAST = event_bytes(chunk("hi", finish="stop"))


def test_a_silent_stream_gets_a_comment_at_each_heartbeat(upstream: ScriptedUpstream) -> None:
    script = sse_stream([pause(0.12), LAST, pause(0.12), DONE])
    started_s = time.monotonic()
    outcome = run_relay(upstream, script, STREAM_HEARTBEAT="0.03")
    beats = int((time.monotonic() - started_s) / 0.03)
    before, _, after = outcome.text.partition(LAST)
    assert set(before.split(b"\n\n")) == set(after.removesuffix(DONE).split(b"\n\n")) == {b": keep-alive", b""}
    assert 2 <= outcome.blocks.count(HEARTBEAT) <= beats
    assert outcome.ended == "stop" and outcome.summary.bytes_sent == len(outcome.text)


def test_a_stream_with_frequent_events_gets_no_heartbeat(upstream: ScriptedUpstream) -> None:
    events: list[bytes | Step] = [event_bytes(chunk("a")), pause(0.02)]
    outcome = run_relay(upstream, sse_stream([*events * 4, LAST, DONE]), STREAM_HEARTBEAT="10")
    assert HEARTBEAT not in outcome.text and outcome.summary.longest_gap_s >= 0.02


def test_heartbeats_come_between_events_even_if_an_event_arrives_in_pieces(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    half = len(LAST) // 2
    with open_relay(
        upstream, sse_stream([LAST[:half], wait_for(gate), LAST[half:], DONE]), STREAM_HEARTBEAT="0.02"
    ) as (relay, _, _):
        assert [next(relay), next(relay), next(relay)] == [HEARTBEAT] * 3
        gate.open()
        rest = b"".join(relay)
    assert rest.replace(HEARTBEAT, b"") == LAST + DONE


def test_a_slow_event_does_not_prevent_heartbeats(upstream: ScriptedUpstream) -> None:
    script = sse_stream([])[:1] + [drip(b"%x\r\n" % len(LAST) + LAST, 2, 0.001), hang()]
    with open_relay(upstream, script, STREAM_HEARTBEAT="0.02") as (relay, _, _):
        assert next(relay) == HEARTBEAT


@pytest.mark.parametrize("begun", [False, True])
def test_a_provider_that_falls_silent_is_an_idle_timeout(upstream: ScriptedUpstream, begun: bool) -> None:
    script = sse_stream([*([chunk("hi")] if begun else []), hang()])
    outcome = run_relay(upstream, script, UPSTREAM_IDLE_TIMEOUT="0.05")
    error = json.loads(outcome.blocks[-1].removeprefix(b"data: "))["error"]
    assert (error["type"], error["code"]) == ("upstream_timeout", "upstream_idle_timeout")
    assert outcome.ended == "broken pipe"
    assert isinstance(outcome.error, UpstreamTimeout) and outcome.error.outcome == "upstream_timeout"
    upstream.wait_for(lambda seen: seen.gone_at is not None)


def test_heartbeats_do_not_reset_the_idle_timeout(upstream: ScriptedUpstream) -> None:
    outcome = run_relay(
        upstream, sse_stream([chunk("hi"), hang()]), STREAM_HEARTBEAT="0.02", UPSTREAM_IDLE_TIMEOUT="0.3"
    )
    assert HEARTBEAT in outcome.blocks
    assert outcome.error is not None and outcome.error.code == "upstream_idle_timeout"


def test_comments_of_the_provider_reset_the_idle_timeout(upstream: ScriptedUpstream) -> None:
    comments: list[bytes | Step] = [b": still there\n\n", pause(0.03)]
    outcome = run_relay(upstream, sse_stream([*comments * 8, LAST, DONE]), UPSTREAM_IDLE_TIMEOUT="0.15")
    assert outcome.error is None


@pytest.mark.parametrize("every_s", [0.005, 5.0])
def test_a_stream_ends_at_its_deadline_whether_slow_or_silent(upstream: ScriptedUpstream, every_s: float) -> None:
    events: list[bytes | Step] = [event_bytes(chunk("a")), pause(every_s)]
    outcome = run_relay(upstream, sse_stream(events * 200), total_s=0.1)
    error = json.loads(outcome.blocks[-1].removeprefix(b"data: "))["error"]
    assert (error["type"], error["code"]) == ("upstream_timeout", "upstream_total_timeout")
    assert outcome.ended == "broken pipe" and outcome.summary.events >= 1
    upstream.wait_for(lambda seen: seen.gone_at is not None)


@pytest.mark.parametrize("begun", [False, True])
def test_a_disconnect_during_silence_is_noticed(upstream: ScriptedUpstream, begun: bool) -> None:
    script = sse_stream([*([LAST] if begun else []), hang()])
    client = DisconnectingClient(2)
    with open_relay(upstream, script, client=client, STREAM_HEARTBEAT="0.02") as (relay, outcome, _):
        with pytest.raises(BrokenPipeError):
            list(relay)
        checks = client.checks
        with pytest.raises(BrokenPipeError):
            next(relay)
        assert client.checks == checks, "no wait after the client has disconnected"
        relay.close()
        upstream.wait_for(lambda seen: seen.gone_at is not None)
    assert isinstance(outcome.error, ClientGone)
    assert outcome.summary.events == int(begun)
