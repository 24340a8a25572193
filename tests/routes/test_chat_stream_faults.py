"""The client's stream and the row for each failure and oddity of the provider."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.routes.met import Observed, meet_all
from tests.support.answers import (
    DONE,
    Event,
    chunk,
    error_event,
    event_bytes,
    json_answer,
    redirect,
    sse_stream,
    usage_chunk,
    usage_of,
)
from tests.support.chat import PREFIX, post_chat, wait_for_row
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, close, drip, hang, pause, reset, send

HTML = b"<html><body>502 Bad Gateway</body></html>"
ENDED = [chunk("one"), chunk(finish="stop")]


@dataclass
class Fault:
    """A fault and its result; `counted` are (prompt, completion) tokens and their source on the row."""

    script: Script
    outcome: str
    code: str | None
    status: int = 200
    counted: tuple[int | None, int | None, str] = (None, None, "none")
    attempts: set[int] = field(default_factory=lambda: {0})


# Six letters in one message are two tokens of text and four for the message around it.
ONE: tuple[int, int, str] = (6, 1, "counted")
KNOWN: tuple[int, int, str] = (11, 3, "provider")
UNANSWERED = {
    "hangs": Fault([hang()], "upstream_timeout", "upstream_first_byte_timeout", 504, attempts={1}),
    "sends half a head": Fault(
        [send(b"HTTP/1.1 200 OK\r\ncontent-ty"), close()],
        "upstream_error",
        "upstream_connection_lost",
        502,
        attempts={1},
    ),
    "sends no HTTP": Fault(
        [send(b"\x16\x03\x01 hello\r\n\r\n"), close()], "upstream_error", "upstream_connection_lost", 502, attempts={1}
    ),
    "redirects": Fault(redirect("/elsewhere"), "upstream_error", None, 502, attempts={1}),
    "FIN after the headers": Fault(sse_stream([], ending="fin"), "upstream_cut", "upstream_cut", 502),
    "RST after the headers": Fault(sse_stream([], ending="reset"), "upstream_cut", "upstream_cut", 502),
    "clean end without events": Fault(sse_stream([]), "upstream_cut", "upstream_cut", 502),
    "an HTML page with status 200": Fault(
        json_answer(HTML, headers={"content-type": "text/html"}), "upstream_cut", "upstream_cut", 502
    ),
    "bad gzip": Fault(
        sse_stream([b"this is plain"], headers={"content-encoding": "gzip"}), "upstream_cut", "upstream_cut", 502
    ),
    "an unknown compression": Fault(
        sse_stream([*ENDED, DONE], headers={"content-encoding": "br"}, ending="hang"),
        "upstream_cut",
        "upstream_cut",
        502,
    ),
}
BROKEN = {
    "silence after the headers": Fault(sse_stream([], ending="hang"), "upstream_timeout", "upstream_idle_timeout"),
    "FIN after an event": Fault(sse_stream([chunk("one")], ending="fin"), "upstream_cut", "upstream_cut", counted=ONE),
    "RST after an event": Fault(
        # A reset discards sent data that was not read yet, so the script waits a moment before.
        [*sse_stream([chunk("one"), pause(0.2)], ending="reset")],
        "upstream_cut",
        "upstream_cut",
        counted=ONE,
    ),
    "silence after an event": Fault(
        sse_stream([chunk("one")], ending="hang"), "upstream_timeout", "upstream_idle_timeout", counted=ONE
    ),
    "half a chunk": Fault(sse_stream([chunk("one")], ending="half chunk"), "upstream_cut", "upstream_cut", counted=ONE),
    "no chunk": Fault(
        # The pause keeps the broken coding apart from the event: read together, the event would be lost too.
        sse_stream([chunk("one"), pause(0.2)], ending="bad chunk"),
        "upstream_cut",
        "upstream_cut",
        counted=ONE,
    ),
    "half an event": Fault(
        sse_stream([chunk("one"), b'data: {"choices": [{"del']), "upstream_cut", "upstream_cut", counted=ONE
    ),
    "clean end without a finish": Fault(sse_stream([chunk("one")]), "upstream_cut", "upstream_cut", counted=ONE),
    "FIN before [DONE]": Fault(
        sse_stream([*ENDED, usage_chunk()], ending="fin"), "upstream_cut", "upstream_cut", counted=KNOWN
    ),
    "clean end before [DONE]": Fault(
        sse_stream([*ENDED, usage_chunk()]), "upstream_cut", "upstream_cut", counted=KNOWN
    ),
    "[DONE] without a finish": Fault(sse_stream([chunk("one"), DONE]), "upstream_cut", "upstream_cut", counted=ONE),
    "one of two choices unfinished": Fault(
        sse_stream([chunk("one"), chunk("two", index=1), chunk(finish="stop"), DONE]),
        "upstream_cut",
        "upstream_cut",
        counted=(6, 2, "counted"),
    ),
    "garbage": Fault(
        sse_stream([chunk("one"), b"data: {not json\n\n", DONE]), "upstream_cut", "upstream_cut", counted=ONE
    ),
    "bytes that are no text": Fault(
        sse_stream([chunk("one"), b'data: {"model": "\xff\xfe"}\n\n', DONE]),
        "upstream_cut",
        "upstream_cut",
        counted=ONE,
    ),
    "comments for ever": Fault(
        sse_stream([drip(b"d\r\n: waiting..\n\n\r\n" * 99, 18, 0.5)], ending="hang"),
        "upstream_timeout",
        "upstream_total_timeout",
    ),
}
FAULTS = UNANSWERED | BROKEN

AllObserved = dict[str, Observed[Fault]]


@pytest.fixture(scope="module")
def observed(hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str) -> AllObserved:
    """The result of each fault, by its name."""
    return meet_all(hasty_gateway, hasty_upstream, session_database_url, FAULTS, stream=True)


@pytest.mark.parametrize("name", FAULTS)
def test_the_row_of_a_failed_stream_says_what_happened_and_what_it_used(observed: AllObserved, name: str) -> None:
    fault, seen, row = observed[name].fault, observed[name].seen, observed[name].row
    assert (row["outcome"], row["status"], row["error_code"]) == (fault.outcome, fault.status, fault.code)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == fault.counted
    assert len(row["attempts"]) in fault.attempts
    assert row["stream"] is True and row["error_type"] == seen.error["type"]


@pytest.mark.parametrize("name", UNANSWERED)
def test_a_failure_before_the_first_byte_is_a_real_http_error(observed: AllObserved, name: str) -> None:
    fault, seen = observed[name].fault, observed[name].seen
    assert (seen.status, seen.cut) == (fault.status, False)
    assert seen.headers["content-type"] == "application/json"
    assert seen.error.keys() == {"message", "type", "param", "code"} and seen.error["code"] == fault.code


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_breaks_ends_in_an_error_event_and_an_unfinished_transfer(
    observed: AllObserved, name: str
) -> None:
    fault, seen = observed[name].fault, observed[name].seen
    assert (seen.status, seen.cut) == (200, True)
    assert seen.error.keys() == {"message", "type", "param", "code"} and seen.error["code"] == fault.code
    assert b"[DONE]" not in seen.body


def test_an_error_event_of_the_provider_ends_the_stream_in_the_gateways_own_words(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    events: list[Event] = [chunk("one"), error_event(account="acme"), chunk("never"), DONE]
    hasty_upstream.on_model("error-event", sse_stream(events))
    seen = post_chat(hasty_gateway, PREFIX + "error-event", stream=True)
    assert seen.body.startswith(event_bytes(events[0])) and len(seen.events) == 2 and seen.cut
    assert seen.error.keys() == {"message", "type", "param", "code"}
    assert "The model is overloaded." in seen.error["message"] and b"acme" not in seen.body
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["outcome"], row["status"], row["upstream_status"], row["completion_tokens"]) == (
        "upstream_error",
        200,
        200,
        1,
    )


def test_usage_that_came_before_a_cut_is_what_the_row_counts(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    running = [chunk(word, usage=usage_of(40, count)) for count, word in enumerate(["a", "b", "c"], 1)]
    hasty_upstream.on_model("running-usage", sse_stream(running, ending="fin"))
    seen = post_chat(hasty_gateway, PREFIX + "running-usage", stream=True)
    row = wait_for_row(session_database_url, seen.request_id)
    assert (row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) == (40, 3, "provider")


def test_a_provider_that_cannot_be_reached_is_tried_three_times(
    hasty_gateway: Gateway, session_database_url: str
) -> None:
    with ThreadPoolExecutor() as pool:
        refused, unanswered = pool.map(
            lambda provider: post_chat(hasty_gateway, "m", provider=provider, stream=True), ["deepinfra", "chutes"]
        )
    assert (refused.status, refused.error["code"]) == (502, "upstream_unreachable")
    assert (unanswered.status, unanswered.error["code"]) == (504, "upstream_connect_timeout")
    for seen, gateway in ((refused, "deepinfra"), (unanswered, "chutes")):
        row = wait_for_row(session_database_url, seen.request_id)
        assert seen.headers["retry-after"] == "2" and "x-should-retry" not in seen.headers
        assert (row["gateway"], row["status"], row["upstream_status"]) == (gateway, seen.status, None)
        assert [attempt["error"] for attempt in row["attempts"]] == [seen.error["code"]] * 3


def test_a_reset_before_the_answer_is_an_http_error(
    hasty_gateway: Gateway, hasty_upstream: ScriptedUpstream, session_database_url: str
) -> None:
    hasty_upstream.on_model("reset-at-once", [reset()])
    seen = post_chat(hasty_gateway, PREFIX + "reset-at-once", stream=True)
    assert (seen.status, seen.error["code"]) == (502, "upstream_connection_lost")
    assert wait_for_row(session_database_url, seen.request_id)["outcome"] == "upstream_error"


def test_a_redirect_is_not_followed(observed: AllObserved, hasty_upstream: ScriptedUpstream) -> None:
    assert observed["redirects"].seen.headers["x-should-retry"] == "false"
    assert not [seen for seen in hasty_upstream.requests if seen.path.startswith("/elsewhere")]


def test_a_provider_whose_answer_is_of_no_use_is_told_to_stop(
    observed: AllObserved, hasty_upstream: ScriptedUpstream
) -> None:
    number = list(FAULTS).index("an unknown compression")
    hasty_upstream.wait_for(lambda seen: f"streamed-fault-{number}-" in str(seen.body) and seen.gone_at is not None)
