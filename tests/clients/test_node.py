"""The official `openai` package for Node: complete streams arrive, and a cut one raises."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.routes.test_limits_sdks import count_requests
from tests.support.answers import DONE, chat_answer, chunk, error_event, json_answer, sse_stream, whole_stream
from tests.support.chat import PREFIX, request
from tests.support.gateway import Gateway
from tests.support.limited_keys import make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Script, hang
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

pytestmark = soak_only("clients/test_sdks.py::test_a_stream_that_was_cut_raises_after_what_came")

STREAMS: dict[str, Script] = {
    "complete": sse_stream(whole_stream("Grüße, ", "世界 ", "🌍"), cut_at=5),
    "odd": sse_stream(
        [
            b'event: ping\ndata: {"type": "ping"}\n\n',
            b'data: {"choices": [{"delta": {"content": "\\ud83d"}, "logprobs": {"content": NaN}}], "error": {}}\n\n',
            b'data: {"choices": [{"delta": {"content": "\\ude00"}, "finish_reason": "stop"}], "usage": []}\n\n',
            {"id": "c", "object": "chat.completion.chunk", "choices": None},
            b"data: [DONE]",
        ]
    ),
    "cut": sse_stream([chunk("one")], ending="fin"),
    "cut-in-an-event": sse_stream([chunk("one"), b'data: {"choices": [{"del']),
    "never-done": sse_stream([chunk("one"), chunk(finish="stop")]),
    "error-event": sse_stream([chunk("one"), error_event(), DONE]),
    "refused": json_answer({"error": {"message": "messages: too long"}}, 400),
}


def begin(place: Path, gateway: Gateway, how: str, models: list[str], key: str = "") -> subprocess.Popen[str]:
    """Starts the client; `how` is "stream", "whole" or "retried". The key is the gateway's, unless another is given."""
    names = [PREFIX + model for model in models]
    command = ["node", str(place / "ask.mjs"), f"{gateway.url}/v1", key or gateway.key, how, *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def ask(place: Path, gateway: Gateway, how: str, models: list[str]) -> dict[str, dict[str, Any]]:
    """Runs the client and returns its result for each model."""
    return finish(begin(place, gateway, how, models))


def finish(process: subprocess.Popen[str]) -> dict[str, dict[str, Any]]:
    """Waits for the client and returns its result for each model."""
    output, _ = process.communicate(timeout=60)
    return {seen["model"].removeprefix(PREFIX): seen for seen in json.loads(output)}


@pytest.fixture(scope="module")
def seen(
    node_place: Path, scripted_gateway: Gateway, shared_upstream: ScriptedUpstream
) -> Iterator[dict[str, dict[str, Any]]]:
    """The client's result for each stream."""
    for name, script in STREAMS.items():
        shared_upstream.on_model(f"node-{name}", script)
    found = ask(node_place, scripted_gateway, "stream", [f"node-{name}" for name in STREAMS])
    yield {name.removeprefix("node-"): value for name, value in found.items()}


def test_a_complete_stream_arrives_whole(seen: dict[str, dict[str, Any]]) -> None:
    complete = seen["complete"]
    assert (complete["text"], complete["finish"], complete["error"]) == ("Grüße, 世界 🌍", "stop", None)


def test_a_complete_stream_with_odd_events_arrives_whole(seen: dict[str, dict[str, Any]]) -> None:
    assert (seen["odd"]["text"], seen["odd"]["finish"], seen["odd"]["error"]) == ("😀", "stop", None)


@pytest.mark.parametrize("name", ["cut", "cut-in-an-event", "never-done"])
def test_a_stream_that_was_cut_raises_after_what_came(seen: dict[str, dict[str, Any]], name: str) -> None:
    assert seen[name]["text"] == "one"
    assert seen[name]["error"]["known"] and seen[name]["error"]["code"] == "upstream_cut"


def test_an_error_event_of_the_provider_raises(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["error-event"]["text"] == "one" and "overloaded" in seen["error-event"]["error"]["message"]


def test_a_refusal_is_the_sdks_own_error_for_it(seen: dict[str, dict[str, Any]]) -> None:
    error = seen["refused"]["error"]
    assert (error["name"], error["status"]) == ("BadRequestError", 400) and "too long" in error["message"]


def test_an_answer_that_is_not_streamed_arrives(
    node_place: Path, scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("node-whole", chat_answer("Hello."))
    assert ask(node_place, scripted_gateway, "whole", ["node-whole"])["node-whole"]["text"] == "Hello."


def test_a_used_up_budget_and_a_model_that_is_not_allowed_are_one_request_each(
    node_place: Path, scripted_gateway: Gateway, upstream: ScriptedUpstream, session_database_url: str
) -> None:
    keys = {
        402: make_limited_key(session_database_url, ("tokens", 5)),
        403: make_limited_key(session_database_url, models=["fireworks/other"]),
    }
    processes = {
        status: begin(node_place, scripted_gateway, "retried", ["scripted"], key) for status, key in keys.items()
    }
    for status, process in processes.items():
        assert finish(process)["scripted"]["error"]["status"] == status
    assert [count_requests(session_database_url, key) for key in keys.values()] == [1, 1]
    assert upstream.calls == []


def test_a_worker_that_is_killed_raises(
    node_place: Path, scripted_gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.on_model("node-killed", sse_stream([chunk("one"), hang()]))
    process = begin(node_place, scripted_gateway, "stream", ["node-killed"])
    upstream.wait_for(lambda seen: "node-killed" in str(seen.body) and seen.bytes_sent > 200)
    (worker,) = scripted_gateway.worker_pids()
    os.kill(worker, signal.SIGKILL)
    killed = finish(process)["node-killed"]
    assert killed["finish"] is None and killed["error"]["message"]
    # Other tests use this gateway next, so wait until it serves again.
    wait_until(lambda: set(scripted_gateway.worker_pids()) - {worker}, what="another worker")
    wait_until(lambda: request("GET", f"{scripted_gateway.url}/health").status == 200, what="the worker to serve")
