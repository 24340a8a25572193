"""A stream that does not complete: one error event in the common shape, an unfinished transfer, and one report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import ClientGone, GatewayShutdown, UpstreamCut, UpstreamError
from app.runtime import use_settings
from app.shutdown import start_drain
from tests.services.inference.chat_core import Outcome, open_relay, run_relay
from tests.support.answers import DONE, chunk, error_event, event_bytes, sse_stream, usage_chunk, whole_stream
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import hang, pause
from tests.support.waiting import wait_until


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


def last_error(outcome: Outcome) -> dict[str, Any]:
    """Returns the error of the last event, having checked that it is the only one and in the common shape."""
    *before, last, nothing = outcome.text.split(b"\n\n")
    assert nothing == b"" and not any(b'"error"' in event for event in before)
    error: dict[str, Any] = json.loads(last.removeprefix(b"data: "))["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


FAULTS: dict[str, tuple[list[Any], str]] = {
    "reset": ([chunk("hi")], "reset"),
    "FIN inside the transfer coding": ([chunk("hi")], "fin"),
    "FIN inside a chunk": ([chunk("hi")], "half chunk"),
    "broken transfer coding": ([chunk("hi"), pause(0.05)], "bad chunk"),
    "an end without a finish": ([chunk("hi")], "end"),
    "an end without [DONE]": ([chunk("hi", finish="stop"), usage_chunk()], "end"),
    "an end before anything": ([], "end"),
    "half an event": ([chunk("hi"), b'data: {"choices": [{"del'], "end"),
    "half a character": ([chunk("hi"), b"data: \xf0\x9f"], "fin"),
    "[DONE] without a finish": ([chunk("hi"), DONE], "end"),
    "[DONE] alone": ([DONE], "end"),
    "[DONE] before the second choice finished": (
        [chunk("hi", index=0), chunk("hi", index=1), chunk(finish="stop", index=0), DONE],
        "end",
    ),
    "a page of an edge": ([chunk("hi"), b"<html>\n\n<body>Bad Gateway</body>\n\n"], "hang"),
    "a bare line of JSON": ([chunk("hi"), b'{"finished": false}\n\n'], "hang"),
    "garbage": ([chunk("hi"), b"data: {]}\n\n"], "hang"),
    "not UTF-8": ([chunk("hi"), b"data: \xff\xfe\n\n"], "hang"),
    "no chunk": ([chunk("hi"), b'data: {"choices": "none"}\n\n'], "hang"),
    "a list": ([chunk("hi"), b"data: [1]\n\n"], "hang"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_an_error_event_and_an_unfinished_response(upstream: ScriptedUpstream, fault: str) -> None:
    events, ending = FAULTS[fault]
    outcome = run_relay(upstream, sse_stream(events, ending=ending))
    assert last_error(outcome) == {**last_error(outcome), "type": "upstream_error", "code": "upstream_cut"}
    assert b"[DONE]" not in outcome.text
    assert (b'"hi"' in outcome.text) == (
        b'"hi"' in b"".join(event_bytes(event) for event in events if not callable(event))
    )
    assert outcome.ended == "broken pipe"
    assert isinstance(outcome.error, UpstreamCut) and outcome.error.outcome == "upstream_cut"
    if ending != "end":
        wait_until(lambda: upstream.live_connections() == 0)


@pytest.mark.parametrize("fault", ["garbage", "a bare line of JSON", "[DONE] without a finish"])
def test_events_before_a_fault_in_the_same_packet_still_pass(upstream: ScriptedUpstream, fault: str) -> None:
    events, ending = FAULTS[fault]
    outcome = run_relay(upstream, sse_stream([*events, chunk("after")], ending=ending, cut_at=100_000))
    last_error(outcome)
    assert outcome.text.startswith(event_bytes(events[0])) and b"after" not in outcome.text


@pytest.mark.parametrize("more", [[], [DONE], [chunk("after"), DONE]])
@pytest.mark.parametrize("together", [True, False])
def test_an_error_event_of_the_provider_is_the_last_in_the_gateways_own_words(
    upstream: ScriptedUpstream, more: list[Any], together: bool
) -> None:
    cut_at = 100_000 if together else None
    outcome = run_relay(upstream, sse_stream([chunk("hi", finish="stop"), error_event(), *more], cut_at=cut_at))
    assert outcome.text.startswith(event_bytes(chunk("hi", finish="stop"))) and b"after" not in outcome.text
    assert "The model is overloaded." in last_error(outcome)["message"]
    assert outcome.ended == "broken pipe"
    assert isinstance(outcome.error, UpstreamError) and outcome.error.status == 503 and not outcome.summary.is_done


def test_an_error_that_is_null_does_not_count(upstream: ScriptedUpstream) -> None:
    outcome = run_relay(upstream, sse_stream([{**chunk("hi", finish="stop"), "error": None}, DONE]))
    assert outcome.ended == "stop" and outcome.error is None


def test_after_a_fault_every_further_step_is_a_broken_pipe(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream([chunk("hi")])) as (relay, outcome, _):
        assert b"hi" in next(relay)
        assert b'"error"' in next(relay)
        for _ in range(3):
            with pytest.raises(BrokenPipeError):
                next(relay)
        assert isinstance(relay.error, UpstreamCut)
    assert len(outcome.reports) == 1


def test_a_fault_after_a_hidden_event_comes_before_the_beginning(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream([usage_chunk()])) as (relay, outcome, _), pytest.raises(UpstreamCut):
        relay.begin()
    assert isinstance(outcome.error, UpstreamCut)


def test_closing_before_the_first_event_ends_the_request(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream([hang()])) as (relay, outcome, _):
        relay.close()
        upstream.wait_for(lambda seen: seen.gone_at is not None)
        relay.close()
    assert isinstance(outcome.error, ClientGone) and outcome.summary.events == 0


def test_closing_in_the_middle_ends_the_request_and_reports_the_events_so_far(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream([chunk("one"), hang()])) as (relay, outcome, _):
        block = next(relay)
        relay.close()
        upstream.wait_for(lambda seen: seen.gone_at is not None)
    assert isinstance(outcome.error, ClientGone) and outcome.error.outcome == "client_gone"
    assert (outcome.summary.events, outcome.summary.bytes_sent) == (1, len(block))


def test_closing_after_done_is_a_complete_stream_even_before_the_end_was_read(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream(whole_stream("hi"), cut_at=100_000)) as (relay, outcome, _):
        assert DONE in next(relay)
    assert outcome.error is None and outcome.summary.is_done


def test_a_provider_that_keeps_sending_after_done_does_not_delay_the_end(upstream: ScriptedUpstream) -> None:
    forever: list[Any] = [DONE, *[chunk("more")] * 20, hang()]
    outcome = run_relay(upstream, sse_stream([chunk("hi", finish="stop"), *forever]))
    assert outcome.error is None
    upstream.wait_for(lambda seen: seen.gone_at is not None)


def test_a_drain_that_is_over_ends_a_stream_with_its_own_error(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream([chunk("hi"), hang()])) as (relay, outcome, _):
        outcome.blocks.append(next(relay))
        start_drain(0.0)
        outcome.blocks.append(next(relay))
        with pytest.raises(BrokenPipeError):
            next(relay)
    use_settings(None)  # Cancels the drain for the other tests.
    assert last_error(outcome)["type"] == "gateway_shutdown"
    assert isinstance(outcome.error, GatewayShutdown)
