"""The units of deploy/ under a real systemd: a restart leaves no gap, and a stop ends all processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.answers import DONE, chat_answer, chunk, sse_stream
from tests.support.chat import PREFIX, Seen, chat_body, request
from tests.support.gateway import GATEWAY_KEY, base_settings
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, wait_for
from tests.support.soak import soak_only
from tests.support.systemd import Systemd
from tests.support.waiting import wait_until

LIFE = (
    "gateway_started", "workers_started", "workers_handed_over", "main_process_lost", "drain_started", "gateway_stopped"
)  # fmt: skip
HEADERS = {"Authorization": f"Bearer {GATEWAY_KEY}"}


@pytest.fixture
def systemd(tree: Path, tmp_path: Path, database_url: str, upstream: ScriptedUpstream) -> Iterator[Systemd]:
    more = {"WEB_CONCURRENCY": "1", "GUNICORN_CMD_ARGS": "--log-level=info"}
    settings = base_settings(tmp_path, database_url) | upstream.settings | more
    with Systemd(tmp_path / "systemd", tree, settings) as systemd:
        yield systemd


def all_lines(systemd: Systemd) -> list[dict[str, object]]:
    """Returns all lines of the log, each of which must be JSON."""
    return [json.loads(line) for line in systemd.log.read_text().splitlines()]


def life(systemd: Systemd) -> list[dict[str, object]]:
    """Returns the lines about the gateway's life cycle."""
    return [line for line in all_lines(systemd) if line["event"] in LIFE]


def names(systemd: Systemd) -> list[object]:
    """Returns the events of these lines."""
    return [line["event"] for line in life(systemd)]


def post(systemd: Systemd, model: str, **more: object) -> Seen:
    """Sends a chat request."""
    url = f"http://127.0.0.1:{systemd.port}/v1/chat/completions"
    return request("POST", url, json=chat_body(PREFIX + model, **more), headers=HEADERS)


def begin(systemd: Systemd, upstream: ScriptedUpstream, model: str) -> tuple[threading.Thread, list[Seen]]:
    """Opens a stream in the background, and returns once the provider has it."""
    seen: list[Seen] = []
    thread = threading.Thread(target=lambda: seen.append(post(systemd, model, stream=True)))
    thread.start()
    upstream.wait_for(lambda sent: model in str(sent.body))
    return thread, seen


@soak_only("test_operation_restart.py::test_a_restart_under_load_refuses_nobody_and_lets_nobody_wait")
def test_a_restart_hands_over_and_a_stop_drains_says_so_and_leaves_nothing(
    systemd: Systemd, upstream: ScriptedUpstream
) -> None:
    gates = {"first": Gate(), "second": Gate()}
    for model, gate in gates.items():
        upstream.on_model(model, sse_stream([chunk("one"), wait_for(gate), chunk("two", finish="stop"), DONE]))
    upstream.on_model("quick", chat_answer("hi"))
    systemd.ask("start", "gateway.socket", "gateway.service")
    wait_until(lambda: "workers_started" in names(systemd), what="the start")
    main = systemd.show("MainPID")
    first = begin(systemd, upstream, "first")
    systemd.ask("restart", "gateway.service")
    assert post(systemd, "quick").status == 200
    wait_until(lambda: names(systemd).count("workers_started") == 2, what="the second start")
    assert systemd.show("MainPID") != main
    second = begin(systemd, upstream, "second")
    stopping = threading.Thread(target=systemd.ask, args=("stop", "gateway.socket", "gateway.service"))
    stopping.start()
    wait_until(lambda: "drain_started" in names(systemd), what="the drain")
    for gate in gates.values():
        gate.open()
    for thread, seen in (first, second):
        thread.join()
        assert seen[0].body.rstrip().endswith(b"[DONE]") and not seen[0].cut
    stopping.join()
    assert systemd.is_port_free() and systemd.processes() == [] and systemd.show("Result") == "success"
    assert names(systemd) == [
        "gateway_started", "workers_started", "workers_handed_over", "gateway_started", "workers_started",
        "drain_started", "gateway_stopped",
    ]  # fmt: skip
    gunicorns = {line["event"]: line for line in all_lines(systemd) if "message" in line}
    assert gunicorns.keys() == {"worker_forked", "worker_exited"}, "the rest is in our own lines"
    assert gunicorns["worker_forked"]["level"] == "info"
    (listening,) = {str(line["listening"]) for line in life(systemd) if line["event"] == "gateway_started"}
    assert listening == f"['127.0.0.1:{systemd.port}']"
