"""A stream that completes: its bytes pass unchanged, its usage is read from any event, and it ends with `[DONE]`."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, cast

import pytest

from app.errors import ClientGone
from app.services.endpoints import Usage
from app.services.streaming.client_connection import Channel
from tests.services.inference.chat_core import open_relay, run_relay
from tests.support.answers import DONE, chunk, event_bytes, sse_stream, usage_chunk, usage_of, whole_stream
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, wait_for


@pytest.fixture(scope="module")
def shared() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def upstream(shared: ScriptedUpstream) -> ScriptedUpstream:
    shared.reset_scripts()
    return shared


def to_bytes(*events: Any) -> bytes:
    return b"".join(event_bytes(event) for event in events)


def test_a_stream_passes_byte_for_byte(upstream: ScriptedUpstream) -> None:
    events: list[Any] = [chunk("hé"), chunk("llo 🌍"), chunk(finish="stop"), usage_chunk(), DONE]
    outcome = run_relay(upstream, sse_stream(events), show_usage=True)
    assert outcome.text == to_bytes(*events)
    assert outcome.ended == "stop" and outcome.error is None
    summary = outcome.summary
    assert summary.is_done and summary.begun <= summary.finished and summary.finish_reason == "stop"
    assert summary.model == "accounts/fireworks/models/scripted"
    assert (summary.events, summary.output_events, summary.bytes_sent) == (4, 2, len(outcome.text))
    assert summary.first_output_s is not None and summary.last_output_s is not None
    assert summary.first_output_s <= summary.last_output_s


@pytest.mark.parametrize("cut_at", [1, 3, 17, 1000])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("compress", [False, True])
def test_a_stream_passes_however_it_is_cut(
    upstream: ScriptedUpstream, cut_at: int, newline: bytes, compress: bool
) -> None:
    events = whole_stream("hé", "llo 🌍")
    script = sse_stream(events, cut_at=cut_at, newline=newline, compress=compress)
    outcome = run_relay(upstream, script, show_usage=True)
    assert outcome.text.replace(b"\r\n", b"\n").replace(b"\r", b"\n") == to_bytes(*events)
    assert outcome.ended == "stop" and outcome.error is None


def test_each_event_is_sent_before_the_next_arrives(upstream: ScriptedUpstream) -> None:
    gates = [Gate(), Gate()]
    events: list[Any] = [chunk("one"), wait_for(gates[0]), chunk("two", finish="stop"), wait_for(gates[1]), DONE]
    with open_relay(upstream, sse_stream(events)) as (relay, outcome, _):
        assert b"one" in next(relay)
        gates[0].open()
        assert b"two" in next(relay)
        assert not upstream.requests[0].finished
        gates[1].open()
        assert outcome.reports == []
        assert next(relay) == DONE
        # The end is reported before the client has it, so that the record exists even if the worker dies now.
        assert outcome.error is None and outcome.summary.bytes_sent == len(
            to_bytes(chunk("one"), chunk("two", finish="stop"), DONE)
        )
        for _ in range(2):
            with pytest.raises(StopIteration):
                next(relay)
    assert outcome.error is None


USAGE = usage_of(11, 3, prompt_tokens_details={"cached_tokens": 7}, completion_tokens_details={"reasoning_tokens": 2})


@pytest.mark.parametrize(
    "events",
    [
        [chunk("hi"), chunk(finish="stop", usage=USAGE)],
        [chunk("hi"), chunk(finish="stop"), usage_chunk(USAGE)],
        [chunk("hi", finish="stop", usage=USAGE)],
        [chunk("h", usage=usage_of(11, 1)), chunk("i", usage=usage_of(11, 2)), chunk(finish="stop", usage=USAGE)],
        [chunk("hi", finish="stop", usage=usage_of(1, 1)), usage_chunk(USAGE)],
        [chunk("hi"), chunk(finish="stop", usage=USAGE), {**chunk(), "choices": [], "usage": None}],
    ],
    ids=["in the finish", "on its own", "with the last text", "running totals", "twice", "then null"],
)
def test_usage_is_read_from_any_event_and_the_last_one_counts(upstream: ScriptedUpstream, events: list[Any]) -> None:
    assert run_relay(upstream, sse_stream([*events, DONE])).summary.usage == Usage(11, 3, 7, 2)


def test_missing_usage_is_unknown(upstream: ScriptedUpstream) -> None:
    outcome = run_relay(upstream, sse_stream([chunk("hi", finish="stop"), DONE]))
    assert outcome.summary.usage is None and outcome.error is None


@pytest.mark.parametrize("choices", [{"choices": []}, {"choices": None}, {}])
def test_the_usage_event_is_shown_only_if_requested(upstream: ScriptedUpstream, choices: Any) -> None:
    usage_only = {name: value for name, value in usage_chunk().items() if name != "choices"} | choices
    events: list[Any] = [chunk("hi", finish="stop"), usage_only, DONE]
    shown = run_relay(upstream, sse_stream(events), show_usage=True).text.split(b"\n\n")
    # Programs iterate over the choices of each chunk, so there is always a list.
    assert json.loads(shown[1].removeprefix(b"data: ")) == usage_only | {"choices": []}
    assert run_relay(upstream, sse_stream(events)).text == to_bytes(events[0], DONE)


def test_usage_beside_choices_is_never_hidden(upstream: ScriptedUpstream) -> None:
    events: list[Any] = [chunk("hi", finish="stop", usage=USAGE), DONE]
    assert run_relay(upstream, sse_stream(events)).text == to_bytes(*events)


def test_an_event_without_choices_and_usage_passes(upstream: ScriptedUpstream) -> None:
    events: list[Any] = [{"id": "1", "choices": [], "prompt_filter_results": []}, chunk("hi", finish="stop"), DONE]
    assert run_relay(upstream, sse_stream(events)).text == to_bytes(*events)


def test_done_counts_once_every_choice_has_finished(upstream: ScriptedUpstream) -> None:
    events: list[Any] = [chunk("a", index=0), chunk("b", index=2), chunk("c", index=1)]
    events += [chunk(finish="length", index=index) for index in (1, 0, 2)]
    outcome = run_relay(upstream, sse_stream([*events, DONE]))
    assert outcome.text == to_bytes(*events, DONE)
    assert outcome.summary.finished == {0, 1, 2} and outcome.summary.finish_reason == "length"


def test_choices_without_an_index_are_told_apart_by_their_position(upstream: ScriptedUpstream) -> None:
    both = {"choices": [{"delta": {"content": "a"}}, {"delta": {"content": "b"}, "finish_reason": "stop"}]}
    first = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    assert run_relay(upstream, sse_stream([both, first, DONE])).ended == "stop"
    assert run_relay(upstream, sse_stream([both, DONE])).ended == "broken pipe"


def test_an_empty_finish_reason_is_none(upstream: ScriptedUpstream) -> None:
    outcome = run_relay(upstream, sse_stream([chunk("hi", finish=""), DONE]))
    assert outcome.ended == "broken pipe" and outcome.summary.finish_reason is None


@pytest.mark.parametrize("together", [True, False])
def test_nothing_follows_done(upstream: ScriptedUpstream, together: bool) -> None:
    events: list[Any] = [chunk("hi", finish="stop"), DONE, chunk("more"), DONE]
    outcome = run_relay(upstream, sse_stream(events, cut_at=100_000 if together else None))
    assert outcome.text == to_bytes(*events[:2])
    assert outcome.ended == "stop" and outcome.error is None


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (b": a comment\n\n", True),
        (b": PROCESSING\n: still\n\n", True),
        (b"event: ping\n\n", False),
        (b"id: 5\nretry: 100\n\n", False),
        (b"data: null\n\n", False),
        (b"data:\n\n", False),
        (b"\n\n", False),
    ],
)
def test_a_legal_event_without_a_chunk_does_not_end_a_stream(
    upstream: ScriptedUpstream, event: bytes, shown: bool
) -> None:
    last: list[Any] = [chunk("hi", finish="stop"), DONE]
    outcome = run_relay(upstream, sse_stream([event, *last, event]))
    assert outcome.text == to_bytes(*([event, *last] if shown else last))
    assert outcome.ended == "stop"


def test_extra_blank_lines_do_not_end_a_stream(upstream: ScriptedUpstream) -> None:
    events: list[Any] = [b"\n\n\n", chunk("hi"), b"\n", chunk(finish="stop"), b"\n\n\n", DONE]
    outcome = run_relay(upstream, sse_stream(events))
    assert outcome.ended == "stop" and outcome.summary.events == 2


def test_events_of_many_lines_and_large_events_pass(upstream: ScriptedUpstream) -> None:
    start, comma, rest = json.dumps(chunk("x" * 100_000)).encode().partition(b",")
    spread = b"event: message\ndata: " + start + comma + b"\ndata: " + rest + b"\n\n"
    outcome = run_relay(upstream, sse_stream([spread, chunk(finish="stop"), DONE], cut_at=5000))
    assert outcome.text.startswith(spread) and outcome.ended == "stop"
    assert outcome.summary.output_events == 1


def test_a_complete_stream_frees_its_connection(upstream: ScriptedUpstream) -> None:
    with open_relay(upstream, sse_stream(whole_stream("hi"))) as (relay, _, response):
        list(relay)
        relay.close()
        assert response.body.complete
    upstream.wait_for(lambda seen: seen.finished)


@pytest.mark.parametrize("ending", ["complete", "cut", "client gone", "unreadable"])
def test_a_stream_that_is_over_leaves_no_reference_cycle(upstream: ScriptedUpstream, ending: str) -> None:
    """The error of an incomplete stream is kept, for example in its record, but not the frames of its traceback."""
    gate = Gate()
    rest: dict[str, list[Any]] = {"client gone": [wait_for(gate), chunk("more")], "unreadable": [b"data: {\n\n"]}
    events = whole_stream("hello") if ending == "complete" else [chunk("hello"), *rest.get(ending, [])]
    gc.disable()
    try:
        with open_relay(upstream, sse_stream(events)) as (relay, outcome, response):
            assert b"hello" in next(relay)
            if ending == "client gone":
                relay.attach(cast(Channel, ClosedChannel()))
            gate.open()
            with suppress(BrokenPipeError):
                list(relay)
        assert outcome.error is None if ending == "complete" else outcome.error is not None
        assert isinstance(outcome.error, ClientGone) == (ending == "client gone")
        held: list[weakref.ref[Any]] = [weakref.ref(relay), weakref.ref(response.body)]
        del relay, response
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()


class ClosedChannel:
    """A client that has disconnected."""

    def get_raw_socket(self) -> None:
        return None

    def push(self, block: bytes) -> bool:
        raise BrokenPipeError
