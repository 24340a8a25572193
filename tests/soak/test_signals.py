"""Deploys under load: a reload fails no request, and a stop ends and records every response."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import MakeGateway
from tests.support.activity_tables import ActivityTables
from tests.support.answers import DONE, chat_answer, chunk, sse_stream, usage_chunk
from tests.support.chat import PREFIX, chat_body
from tests.support.gateway import Gateway
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import pause
from tests.support.soak import FULL, soak_only
from tests.support.waiting import wait_until

SETTINGS = {"GRACEFUL_TIMEOUT": "12", "DRAIN_TIMEOUT": "8"}

REFUSED = "refused"

# The times from the start of a gateway's workers to its stop. A worker needs about a second to set its handlers.
_MOMENTS_S = [0.1 * number % 1.5 for number in range(20)] if FULL else [0.1]


class Load:
    """Clients that send requests continuously: half keep their connection, half open one for each request.

    Attributes:
        results: the results of requests: "whole" and "stream" for good ends, words for the others.
        request_ids: the gateway's ids of all requests that got an answer.
    """

    def __init__(self, gateway: Gateway, clients: int = 12) -> None:
        self.results: Counter[str] = Counter()
        self.request_ids: set[str] = set()
        self._port = gateway.port
        self._headers = {**gateway.headers, "Content-Type": "application/json"}
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(clients)]

    @contextmanager
    def running(self) -> Iterator[Load]:
        """Sends requests for the length of a `with` block; at its end all requests have ended."""
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)

    def stop_asking(self) -> None:
        """Lets no client begin another request."""
        self._over.set()

    def _ask_on(self, number: int) -> None:
        keeps, stream = number % 2 == 0, number % 3 == 0
        connection = None
        while not self._over.is_set():
            if connection is None or not keeps or connection.sock is None:
                if connection is not None:
                    connection.close()
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
            result = self._ask(connection, stream)
            self._note(result)
            if result == REFUSED:
                return  # The gateway is gone.
        if connection is not None:
            connection.close()

    def _note(self, result: str) -> None:
        with self._lock:
            self.results[result] += 1

    def _ask(self, connection: http.client.HTTPConnection, stream: bool) -> str:
        kind = "stream" if stream else "whole"
        body = b""
        try:
            connection.request(
                "POST", "/v1/chat/completions", json.dumps(chat_body(PREFIX + kind, stream=stream)), self._headers
            )
            answer = connection.getresponse()
            with self._lock:
                self.request_ids.add(answer.headers["x-request-id"])
            body = answer.read()
        except http.client.IncompleteRead as error:
            body = error.partial
            connection.close()
            return "gateway_shutdown" if b"gateway_shutdown" in body else "cut"
        except ConnectionRefusedError:
            return REFUSED
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            return f"{kind}: {type(error).__name__}"
        if answer.status != 200:
            return "gateway_shutdown" if b"gateway_shutdown" in body else f"status {answer.status}"
        return kind if b"[DONE]" in body or not stream else "without an end"


@pytest.fixture
def busy_upstream() -> Iterator[ScriptedUpstream]:
    """A provider whose streams last a second."""
    with ScriptedUpstream() as upstream:
        slow = [part for number in range(10) for part in (chunk(str(number)), pause(0.1))]
        upstream.on_model("stream", sse_stream([*slow, chunk(finish="stop"), usage_chunk(), DONE]))
        upstream.on_model("whole", [pause(0.02), *chat_answer("Hello.")])
        yield upstream


@pytest.mark.soak
@soak_only(
    "test_operation_boot_mistakes.py::test_a_bad_reload_is_refused_and_a_good_one_loads_the_code_and_cuts_nobody"
)
def test_reloads_under_load_fail_nothing(make_gateway: MakeGateway, busy_upstream: ScriptedUpstream) -> None:
    gateway = make_gateway(SETTINGS | busy_upstream.settings, workers=2)
    with Load(gateway).running() as load:
        for _ in range(20):
            before = set(gateway.worker_pids())
            gateway.send_signal(signal.SIGHUP)
            wait_until(lambda before=before: _replaced(gateway, before), 60, "new workers in the place of the old")
            time.sleep(0.5)  # Lets the new workers serve requests before the next reload.
    assert set(load.results) == {"whole", "stream"}, load.results


def _replaced(gateway: Gateway, before: set[int]) -> bool:
    now = set(gateway.worker_pids())
    return len(now) == 2 and not now & before


@pytest.mark.soak
@soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")
def test_a_stop_under_load_ends_every_answer_and_records_it(
    make_gateway: MakeGateway, busy_upstream: ScriptedUpstream, database_url: str
) -> None:
    short = SETTINGS | {"DRAIN_TIMEOUT": "0.5", "GRACEFUL_TIMEOUT": "10"}
    gateway = make_gateway(short | busy_upstream.settings, workers=2)
    with Load(gateway).running() as load:
        wait_until(lambda: sum(load.results.values()) > 100, what="some load")
        gateway.send_signal(signal.SIGTERM)
        wait_until(lambda: not gateway.worker_pids(), 30, "the workers to end")
        load.stop_asking()
    # As with every server, a kept connection may be closed just as its client uses it; nothing else may go wrong.
    ended = {"whole: RemoteDisconnected", "stream: RemoteDisconnected", "whole: ConnectionResetError"}
    ended |= {"stream: ConnectionResetError", "whole: BrokenPipeError", "stream: BrokenPipeError"}
    assert set(load.results) <= {"whole", "stream", "gateway_shutdown", REFUSED} | ended, load.results
    assert load.results["gateway_shutdown"] > 0, "no stream outlived the drain, so nothing was tested"

    tables = ActivityTables(database_url)
    outcomes = tables.outcomes()
    assert load.request_ids <= outcomes.keys()
    assert set(outcomes.values()) <= {"ok", "gateway_shutdown"}
    ledger = tables.check_balance()
    assert ledger["started"] == len(outcomes)


@soak_only("test_operation_stop.py::test_what_outlives_the_drain_is_ended_told_and_recorded")
@pytest.mark.soak
def test_a_stop_that_comes_while_workers_begin_is_heard(make_gateway: MakeGateway) -> None:
    for moment_s in _MOMENTS_S:
        # A worker that missed the signal would run on until the graceful timeout.
        gateway = make_gateway({"GRACEFUL_TIMEOUT": "3600", "DRAIN_TIMEOUT": "3500"}, workers=3 if FULL else 2)
        _replace_workers(gateway)
        time.sleep(moment_s)
        assert gateway.stop() == 0


def _replace_workers(gateway: Gateway) -> None:
    before = set(gateway.worker_pids())
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    wait_until(lambda: len(set(gateway.worker_pids()) - before) == len(before), what="new workers")
