"""Two hosts behind one nginx: cables are pulled, the database is lost, a host is killed; each request has one row."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from app import create_app
from app.config import load_settings
from app.runtime import use_settings
from tests.faults.nginx import NO_NGINX
from tests.soak.stages import NetworkStage, Stage, network_stage, process_stage
from tests.support.activity_tables import ActivityTables, journal_directories
from tests.support.answers import DONE, chat_answer, chunk, sse_stream, whole_stream
from tests.support.chat import PREFIX, chat_body, request
from tests.support.gateway import Gateway, base_settings
from tests.support.gateways import Gateways
from tests.support.host_network import why_no_host_network
from tests.support.limited_keys import get_charges, make_limited_key
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, pause, wait_for
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

CLIENTS = 8
# The pause after each request of a client, so that the machine is not saturated and the load outlasts the disturbances.
_PAUSE_S = 0.1
# Above all timeouts that end a request that is lost on the way; a test that waits for this long has failed.
_CLIENT_TIMEOUT_S = 120.0
_MODELS = "SELECT model_requested FROM activity"
# More than a stopped host's socket receives, and less than nginx' socket holds (stages.py), so that a part of such a
# request is on its way when the cable is pulled.
_BIG_BYTES = 100_000


class Load:
    """Clients that send requests with different models through nginx, half of them streamed.

    Attributes:
        answers: model → the result of its request: "ok", its status, or None if the connection broke.
    """

    def __init__(self, url: str, key: str) -> None:
        self.answers: dict[str, str | int | None] = {}
        self._url = f"{url}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}"}
        self._numbers = itertools.count()
        self._stop = threading.Event()
        self._goes = threading.Event()
        self._goes.set()
        self._threads: list[threading.Thread] = []
        self._sending: set[str] = set()

    def send(self, model: str, *, stream: bool = False, text: str = "Hello!") -> None:
        """Sends a request, and notes how it ended."""
        self._sending.add(model)
        body = chat_body(model, stream=stream, max_tokens=5, messages=[{"role": "user", "content": text}])
        try:
            answer = requests.post(self._url, json=body, headers=self._headers, timeout=_CLIENT_TIMEOUT_S)
            is_whole = answer.status_code == 200 and (not stream or answer.content.endswith(DONE))
            self.answers[model] = "ok" if is_whole else answer.status_code
        except requests.RequestException:
            self.answers[model] = None
        finally:
            self._sending.discard(model)

    def start(self, model: str, *, stream: bool = False, text: str = "Hello!") -> str:
        """Sends a request in the background, and returns its model."""
        self._run(lambda: self.send(PREFIX + model, stream=stream, text=text))
        return PREFIX + model

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs clients for the length of a `with` block; at its end, all requests have ended."""
        for _ in range(CLIENTS):
            self._run(self._work)
        try:
            yield
        finally:
            self._stop.set()
            self._goes.set()
            for thread in self._threads:
                thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stops clients from sending during a `with` block, which begins once all requests have ended."""
        self._goes.clear()
        wait_until(lambda: not self._sending, what="the last answers before the pause")
        try:
            yield
        finally:
            self._goes.set()

    def wait_for_more(self, count: int) -> None:
        """Returns once that many more requests have ended."""
        least = len(self.answers) + count
        wait_until(lambda: len(self.answers) >= least, _CLIENT_TIMEOUT_S, f"{count} more answers")

    def failed(self) -> set[str]:
        """Returns the models of the requests that failed so far."""
        return {model for model, answer in list(self.answers.items()) if answer != "ok"}

    def _run(self, work: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=work))
        self._threads[-1].start()

    def _work(self) -> None:
        while not self._stop.is_set():
            number = next(self._numbers)
            model = f"{PREFIX}host-{number}-" + ("stream" if number % 2 else "plain")
            # Added before the check for a pause, so that a pause either waits for this request or prevents it.
            self._sending.add(model)
            if self._goes.is_set():
                self.send(model, stream=number % 2 == 1)
            else:
                self._sending.discard(model)
                self._goes.wait()
            time.sleep(_PAUSE_S)


@pytest.fixture
def stage(request: pytest.FixtureRequest, gateways: Gateways, tmp_path: Path) -> Iterator[Stage]:
    """Two hosts in namespaces if this machine supports them, otherwise as groups of processes."""
    # The gateways do not retry failed requests either, so that the provider is asked at most once for each.
    settings = {"UPSTREAM_RETRIES": "0", "BUDGET_OUTAGE": "serve"}
    if why_no_host_network():
        url, upstream = request.getfixturevalue("database_url"), request.getfixturevalue("upstream")
        with process_stage(gateways, upstream, url, settings, tmp_path) as stage:
            yield stage
    else:
        with network_stage(gateways, request.getfixturevalue("server_data"), settings, tmp_path) as stage:
            yield stage


@soak_only("services/journal/test_orphans.py::test_finished_requests_are_shipped_and_unfinished_ones_are_lost")
@pytest.mark.skipif(bool(NO_NGINX), reason=NO_NGINX)
def test_hosts_that_are_cut_off_and_killed_lose_no_row(stage: Stage, tmp_path: Path) -> None:
    stage.upstream.default = [pause(0.02), *chat_answer("hi")]
    stage.upstream.on_model("-stream", sse_stream([chunk("one"), pause(0.05), *whole_stream("two")]))
    key = make_limited_key(stage.database_url, ("tokens", 1_000_000_000), ("requests", 1_000_000_000))
    load = Load(stage.door.url, key)
    with load.running():
        load.wait_for_more(100)
        lose_the_database(stage, load)
        if isinstance(stage, NetworkStage):
            pull_a_cable(stage, load)
        failed = load.failed()
        stage.doomed.kill()
        load.wait_for_more(200)
        # The host may have been serving all clients.
        assert len(load.failed() - failed) <= CLIENTS
    tables = ActivityTables(stage.database_url)
    tables.execute(
        "UPDATE worker SET last_seen_at = now() - interval '10 minutes'"
        f" WHERE journal_dir = '{stage.doomed_place / 'journal'}'"
    )
    hosts = request("GET", f"{stage.other.url}/ready", headers=stage.other.headers).json["hosts"]
    assert {(host["state"], host["journal_dir"]) for host in hosts} == {
        ("gone", str(stage.doomed_place / "journal")),
        ("live", str(stage.other_place / "journal")),
    }
    adopt(stage.doomed_place / "journal", tmp_path, stage.database_url)
    integrity = wait_until(lambda: get_settled(stage.other, len(served(stage.upstream))), 120, "all records")
    assert integrity["balanced"] is True and integrity["workers"]["missing"] == 0, integrity
    assert integrity["limits"]["balanced"] is True, integrity
    check(load, stage.upstream, tables)
    check_budget(stage.database_url, key, tables)


def lose_the_database(stage: Stage, load: Load) -> None:
    """One host cannot reach the database: no client notices, and neither end waits for the other for ever."""
    stage.lose_database()
    stage.wait_until_lost()
    load.wait_for_more(50)
    answered = set(load.answers)
    stage.find_database()
    assert load.failed() == set()
    tables = ActivityTables(stage.database_url)
    wait_until(lambda: answered <= {row[0] for row in tables.select(_MODELS)}, what="the records that were waiting")


def pull_a_cable(stage: NetworkStage, load: Load) -> None:
    """A host is cut off while it serves: its requests end, all others go to the other host, and none is sent twice.

    nginx alternates between the hosts while no other requests are sent, so each of them gets one of two requests.
    """
    gate = Gate()
    stage.upstream.on_model("held-plain", [wait_for(gate), *chat_answer("hi")])
    stage.upstream.on_model("held-stream", sse_stream([chunk("one"), wait_for(gate), *whole_stream("two")]))
    held: set[str] = set()
    try:
        with load.paused():
            for kind, is_stream in (("held-plain", False), ("held-stream", True)):
                held |= {load.start(f"{kind}-{number}-", stream=is_stream) for number in range(2)}
                wait_until(lambda: held <= served(stage.upstream).keys(), what=f"both requests of {kind}")  # noqa: B023
            with stage.frozen_other():
                big = {load.start(f"big-{number}-", text="x" * _BIG_BYTES) for number in range(2)}
                wait_until(
                    lambda: len(big & load.answers.keys()) == 1, what="the answer of the host that is not stopped"
                )
                nginx, peer = stage.nginx_host, stage.other_host
                wait_until(lambda: any(nginx.connections(peer.address).values()), what="a full socket")
                peer.pull_cable()
        # nginx gets no message that the host is gone: its kernel must detect it while the cable is out.
        held |= big
        wait_until(
            lambda: len(held & load.answers.keys()) == 4, _CLIENT_TIMEOUT_S, "the end of what the host was serving"
        )
        load.wait_for_more(100)
        peer.plug_cable()
    finally:
        gate.open()
    wait_until(lambda: held <= load.answers.keys(), what="the answers of the other host")
    ended = Counter((model.rpartition("/")[2].rpartition("-")[0][:-2], load.answers[model]) for model in held)
    assert ended == {
        ("held-plain", "ok"): 1,
        ("held-plain", 502): 1,
        ("held-stream", "ok"): 1,
        ("held-stream", None): 1,
        ("big", "ok"): 1,
        ("big", 502): 1,
    }
    load.wait_for_more(100)
    assert load.failed() <= held
    gate.close()


def served(upstream: ScriptedUpstream) -> Counter[str]:
    """Returns model → how often the provider read a request with it."""
    return Counter(str(call.json["model"]) for call in upstream.calls)


def adopt(journal: Path, tmp_path: Path, database_url: str) -> None:
    """Delivers the journal of the dead host from a third one."""
    place = tmp_path / "third"
    place.mkdir()
    runner = create_app(load_settings(base_settings(place, database_url))).test_cli_runner()
    done = runner.invoke(args=["journal", "adopt", str(journal)])
    use_settings(None)
    assert done.exit_code == 0 and journal_directories(journal.parent) == [], done.output


def get_settled(gateway: Gateway, least: int) -> dict[str, Any]:
    """Returns the report on integrity once no record is on its way any more."""
    seen = request("GET", f"{gateway.url}/api/activity/integrity", headers=gateway.headers)
    report: dict[str, Any] = seen.json if seen.status == 200 else {"in_flight": -1, "started": 0}
    is_settled = report["in_flight"] == 0 and report["unshipped"] == 0 and report["started"] >= least
    return report if is_settled else {}


def check(load: Load, upstream: ScriptedUpstream, tables: ActivityTables) -> None:
    """Fails unless each request known to a provider or a client has one row, and none was sent to two hosts."""
    rows = tables.select("SELECT model_requested, outcome FROM activity")
    outcomes = {row.model_requested: row.outcome for row in rows}
    assert len(outcomes) == len(rows), "a request has two rows"
    # The request whose body was cut off halfway by the pulled cable, so that its model was not read.
    assert outcomes.pop(None, "client_gone") == "client_gone"
    counts = served(upstream)
    assert set(counts.values()) == {1}, "a request was sent to a provider twice"
    assert counts.keys() <= outcomes.keys() and outcomes.keys() <= load.answers.keys()
    for model, answer in load.answers.items():
        if answer == "ok":
            assert outcomes[model] == "ok", (model, outcomes.get(model))
        else:  # Requests that a host was serving when it was cut off or killed.
            assert answer in {200, 502, 504, None}, (model, answer)
    tables.check_balance()


def check_budget(database_url: str, key: str, tables: ActivityTables) -> None:
    """Fails unless the budgets were charged once for each request, with the tokens of its row."""
    ((requests_, tokens),) = tables.select(
        "SELECT count(*), sum(prompt_tokens + completion_tokens) FROM activity WHERE model_requested IS NOT NULL"
    )
    charges = get_charges(database_url, key)
    assert charges["requests"][0] == charges["requests"][3] == charges["tokens"][3] == requests_
    exact, estimated, _, _ = charges["tokens"]
    assert exact + estimated == tokens
