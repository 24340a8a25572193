"""When a client disconnects, at any stage, the request to the provider ends and the row records it."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.answers import chunk, head, sse_stream
from tests.support.chat import PREFIX, open_chat, read_until, wait_for_row_of
from tests.support.gateway import Gateway
from tests.support.request_reader import SeenRequest
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang, pause, send

STREAMED_WORDS = sse_stream([step for _ in range(400) for step in (chunk("w"), pause(0.05))])

# Stage of the disconnect → the provider's script, and the bytes that the client has received by then.
STREAMED: dict[str, tuple[Script, bytes]] = {
    "before the headers": ([hang()], b""),
    "before the first event": (sse_stream([], ending="hang"), b""),
    "after the first event": (sse_stream([chunk("one")], ending="hang"), b'"one"'),
    "in the middle of an event": (sse_stream([chunk("one"), b'data: {"cho'], ending="hang"), b'"one"'),
    "while events flow": (STREAMED_WORDS, b'"w"'),
}
UNSTREAMED: dict[str, tuple[Script, bytes]] = {
    "before the headers, unstreamed": ([hang()], b""),
    "while a long answer is collected": (STREAMED_WORDS, b""),
    "in the middle of the body, unstreamed": ([send(head(200, {"content-length": "999"}) + b'{"id":'), hang()], b""),
}
STAGES = STREAMED | UNSTREAMED
# The stages that come after the provider's first event.
BEGUN = {stage for stage, (_, awaited) in STAGES.items() if awaited} | {"while a long answer is collected"}
CASES = [(stage, abruptly) for stage in STAGES for abruptly in (False, True)]

Left = tuple[float, SeenRequest, dict[str, Any]]


@pytest.fixture(scope="module")
def left(
    scripted_gateway: Gateway, shared_upstream: ScriptedUpstream, session_database_url: str
) -> Iterator[dict[tuple[str, bool], Left]]:
    """All disconnects, made at the same time: when, the request as the provider saw it, and the row."""
    shared_upstream.reset_scripts()

    def leave(case: tuple[str, bool]) -> Left:
        (stage, abruptly), model = case, f"{PREFIX}leaving-{CASES.index(case)}-"
        script, awaited = STAGES[stage]
        shared_upstream.on_model(model, script)
        more = {"max_tokens": 20_480} if stage == "while a long answer is collected" else {}
        with open_chat(scripted_gateway, model, stream=stage in STREAMED, **more) as connection:
            shared_upstream.wait_for(lambda seen: model in str(seen.body))
            if awaited:
                read_until(connection, awaited)
            if abruptly:
                # Linger on with zero seconds makes close() send RST.
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            left_s = time.monotonic()
        gone = shared_upstream.wait_for(lambda seen: model in str(seen.body) and seen.gone_at is not None)
        return left_s, gone, wait_for_row_of(session_database_url, model)

    with ThreadPoolExecutor(len(CASES)) as pool:
        yield dict(zip(CASES, pool.map(leave, CASES), strict=True))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_provider_is_told_at_once(left: dict[tuple[str, bool], Left], case: tuple[str, bool]) -> None:
    left_s, gone, _ = left[case]
    assert gone.gone_at is not None and not gone.finished
    # The gateway checks once a second, and the rest allows for a busy machine. It is below all of its timeouts.
    assert gone.gone_at - left_s < 15


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_row_says_that_the_client_left(left: dict[tuple[str, bool], Left], case: tuple[str, bool]) -> None:
    row = left[case][2]
    assert (row["outcome"], row["status"], row["error_type"]) == ("client_gone", 499, "client_gone")
    assert (row["usage_source"] == "counted") == (case[0] in BEGUN)
    assert row["finish_reason"] is None
