"""Stop and reload: responses in flight finish or end with an error, no client is refused, and no process is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import requests

from app.speedups import find_speedups
from tests.support.answers import DONE, chat_answer, chunk, sse_stream
from tests.support.chat import PREFIX, Seen, post_chat, request, rows_where, wait_for_row, wait_for_row_of
from tests.support.gateway import Gateway, base_settings, running_gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, Script, hang, pause, wait_for
from tests.support.soak import soak_only
from tests.support.tree import copy_tree
from tests.support.waiting import PATIENCE_S, wait_until

MakeGateway = Callable[..., Gateway]
Running = tuple[threading.Thread, list[Seen]]
LIFE = (
    "gateway_started", "workers_started", "reload_started", "reload_refused", "drain_started", "gateway_stopped"
)  # fmt: skip
# After the drain there must be time to end the responses and to ship the journal.
SHORT_DRAIN = {"DRAIN_TIMEOUT": "1", "GRACEFUL_TIMEOUT": "6"}


def begin(gateway: Gateway, upstream: ScriptedUpstream, model: str, **more: Any) -> Running:
    """Sends a chat in the background, and returns once the provider has it."""
    results: list[Seen] = []
    thread = threading.Thread(target=lambda: results.append(post_chat(gateway, PREFIX + model, **more)))
    thread.start()
    upstream.wait_for(lambda seen: model in str(seen.body))
    return thread, results


def end(running: Running) -> Seen:
    """Waits for the answer to a chat in the background."""
    running[0].join()
    (seen,) = running[1]
    return seen


def refuses(gateway: Gateway) -> bool:
    """Returns whether new connections are refused."""
    try:
        request("GET", gateway.url + "/health")
        return False
    except requests.ConnectionError:
        return True


def ask_ready(session: requests.Session, gateway: Gateway) -> int:
    """Returns the status of `/ready`, or -1 without an answer."""
    try:
        return session.get(gateway.url + "/ready", timeout=PATIENCE_S).status_code
    except requests.ConnectionError:
        return -1


def assert_gone(pids: list[int]) -> None:
    left = [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert left == []


def halves(gate: Gate) -> Script:
    """Returns the script of a stream that waits for `gate` in the middle."""
    return sse_stream([chunk("one"), wait_for(gate), chunk("two", finish="stop"), DONE])


@soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")
def test_running_answers_are_finished_after_sigterm_and_idle_connections_do_not_hold_it_up(
    make_gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str
) -> None:
    gateway, gate = make_gateway(upstream.settings), Gate()
    pids = [gateway.pid, *gateway.worker_pids()]
    upstream.on_model("streamed", halves(gate))
    upstream.on_model("whole", [wait_for(gate), *chat_answer("two")])
    with requests.Session() as idle:
        idle.trust_env = False
        assert idle.get(gateway.url + "/health", timeout=20).status_code == 200
        running = [begin(gateway, upstream, "streamed", stream=True), begin(gateway, upstream, "whole")]
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(gateway), what="the listener to close")
        gate.open()
        answers = [end(one) for one in running]
        ended_s = time.monotonic()
        assert gateway.stop() == 0
        # Waiting for the idle connection would use up the grace time of 25 s.
        assert time.monotonic() - ended_s < 20
    assert_gone(pids)
    for seen in answers:
        assert b"two" in seen.body and not seen.cut
        assert wait_for_row(database_url, seen.request_id)["outcome"] == "ok"
    gate.close()


@soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")
def test_connections_without_a_request_are_closed_after_the_keep_alive_time_and_those_with_one_are_not(
    make_gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    gateway, gate = make_gateway(upstream.settings | {"GUNICORN_CMD_ARGS": "--keep-alive=1"}), Gate()
    upstream.on_model("whole", [wait_for(gate), *chat_answer("two")])
    running = begin(gateway, upstream, "whole")
    half = b"GET /health HTTP/1.1\r\nhost: g"
    for sent, answers in {b"": 0, half: 0, half + b"\r\n\r\n": 1}.items():
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE_S) as connection:
            connection.sendall(sent)
            received = b""
            while piece := connection.recv(65_536):
                received += piece
        assert received.count(b"HTTP/1.1 200 ") == answers == received.count(b"Connection: keep-alive"), sent
    gate.open()
    assert b"two" in end(running).body
    gate.close()


def test_what_outlives_the_drain_is_ended_told_and_recorded(
    make_gateway: MakeGateway, upstream: ScriptedUpstream, database_url: str
) -> None:
    gateway = make_gateway(upstream.settings | SHORT_DRAIN)
    pids = [gateway.pid, *gateway.worker_pids()]
    upstream.on_model("stream-silent", sse_stream([chunk("one")], ending="hang"))
    upstream.on_model("stream-busy", sse_stream([step for _ in range(500) for step in (chunk("w"), pause(0.05))]))
    upstream.on_model("waiting", [hang()])
    upstream.on_model("long", sse_stream([chunk("one")], ending="hang"))
    running = {
        "stream-silent": begin(gateway, upstream, "stream-silent", stream=True),
        "stream-busy": begin(gateway, upstream, "stream-busy", stream=True),
        "waiting": begin(gateway, upstream, "waiting"),
        "long": begin(gateway, upstream, "long", max_tokens=9_000),
    }
    with requests.Session() as balancer:
        balancer.trust_env = False
        assert ask_ready(balancer, gateway) == 200
        gateway.send_signal(signal.SIGHUP)  # The reload must neither delay the stop nor prevent it.
        gateway.send_signal(signal.SIGTERM)
        assert wait_until(lambda: (status := ask_ready(balancer, gateway)) != 200 and status) == 503
    assert gateway.stop() == 0
    assert '"event":"reload_started"' not in gateway.log()
    assert_gone(pids)
    for model, one in running.items():
        seen = end(one)
        assert seen.error["type"] == "gateway_shutdown", model
        assert (seen.status, seen.cut) == ((200, True) if model.startswith("stream") else (503, False))
        row = wait_for_row_of(database_url, PREFIX + model)
        assert (row["outcome"], row["status"]) == ("gateway_shutdown", seen.status)
        gone = upstream.wait_for(lambda sent, model=model: model in str(sent.body) and sent.gone_at is not None)
        assert not gone.finished


def read_hello(gateway: Gateway) -> str:
    """Returns the service name that the gateway reports."""
    return str(request("GET", gateway.url + "/").json["service"])


@soak_only(
    "test_operation_boot_mistakes.py::test_a_bad_reload_is_refused_and_a_good_one_loads_the_code_and_cuts_nobody"
)
def test_a_reload_under_load_loads_all_code_and_neither_refuses_nor_cuts_anybody(
    upstream: ScriptedUpstream, database_url: str, tmp_path: Path
) -> None:
    tree, gate = copy_tree(tmp_path / "gateway"), Gate()
    config, route = tree / "app" / "config.py", tree / "app" / "routes" / "health.py"
    settings = base_settings(tmp_path, database_url) | upstream.settings
    stop, answers = threading.Event(), list[Seen]()
    with running_gateway(tree, tmp_path, settings, workers=2) as gateway:
        # The first worker may answer before the last one has started.
        wait_until(lambda: "workers_started" in gateway.log(), what="all workers to start")
        before, pid = set(gateway.worker_pids()), gateway.pid
        upstream.default = [pause(0.1), *chat_answer("hi")]
        upstream.on_model("survivor", halves(gate))
        survivor = begin(gateway, upstream, "survivor", stream=True)

        def ask() -> None:
            while not stop.is_set():
                answers.append(post_chat(gateway, PREFIX + "reload"))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 5)
        # A new name that another module must define: old and new code do not work together.
        right = route.read_text().replace('"llm-gateway"', "SERVICE") + "\nfrom app.config import SERVICE\n"
        route.write_text(right)
        gateway.send_signal(signal.SIGHUP)
        wait_until(lambda: "reload_refused" in gateway.log(), what="the refusal of code that cannot be loaded")
        (refused,) = [json.loads(line) for line in gateway.log().splitlines() if "reload_refused" in line]
        assert "ImportError" in refused["reason"] and "SERVICE" in refused["reason"]
        assert set(gateway.worker_pids()) == before and read_hello(gateway) == "llm-gateway"
        config.write_text(config.read_text() + '\nSERVICE = "updated"\n')
        (tree / ".env.local").write_text("RETENTION_DAY=7\n")
        gateway.send_signal(signal.SIGHUP)
        # One old worker still serves the stream.
        wait_until(lambda: len(before & set(gateway.worker_pids())) == 1, what="an old worker to end")
        count = len(answers)
        wait_until(lambda: len(answers) > count + 5)
        # The other old worker accepts connections for up to another second.
        wait_until(lambda: {read_hello(gateway) for _ in range(10)} == {"updated"}, what="answers of new workers alone")
        assert gateway.pid == pid
        stop.set()
        for thread in threads:
            thread.join()
        gate.open()
        assert b"two" in end(survivor).body and not end(survivor).cut
        wait_until(lambda: not before & set(gateway.worker_pids()), what="the last old worker to end")
        assert {seen.status for seen in answers} == {200} and len(before) == 2
        ids = {seen.request_id for seen in answers}
        wait_until(lambda: recorded(database_url) == ids, what="the rows of all requests")
        version = request("GET", gateway.url + "/health").json["version"]
    life = [line for line in map(json.loads, gateway.log().splitlines()) if line["event"] in LIFE]
    started, reloaded = ["gateway_started", "workers_started"], ["reload_refused", "reload_started"]
    assert [line["event"] for line in life] == [*started, *reloaded, *started, "drain_started", "gateway_stopped"]
    assert {(line["host"], line["pid"]) for line in life} == {(socket.gethostname(), pid)}
    versions = [line["version"] for line in life]
    assert versions[3] == versions[0] and {*versions[4:]} == {version} != {versions[0]}
    assert [line["level"] for line in life if line["level"] != "info"] == ["error"], "the refusal"
    (misspelt,) = [line for line in map(json.loads, gateway.log().splitlines()) if line.get("check") == "names"]
    assert misspelt["level"] == "warning"
    assert "RETENTION_DAY is not a setting, did you mean RETENTION_DAYS?" in misspelt["reason"]
    assert [line["reloaded"] for line in life if "reloaded" in line] == [False, True]
    is_compiled = find_speedups().speedups is not None and os.environ.get("COMPILED_EVENTS") != "false"
    assert {line["events"] for line in life if "events" in line} == {"compiled" if is_compiled else "python"}
    gate.close()


def recorded(database_url: str) -> set[str]:
    return {row["request_id"] for row in rows_where(database_url, "model_requested", PREFIX + "reload")}
