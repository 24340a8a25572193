"""A restart with a socket that systemd holds: no client is refused, and the old workers serve meanwhile."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from app.server.restart import RESTART_SIGNAL
from tests.support.answers import DONE, chat_answer, chunk, sse_stream
from tests.support.chat import PREFIX, Seen, chat_body, request, rows_where
from tests.support.gateway import GATEWAY_KEY, base_settings, clean_environment
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, pause, wait_for
from tests.support.soak import FULL, examples, soak_only
from tests.support.waiting import wait_until

# Promised by docs/deploy.md. On two busy cores, the longest of 4,500 answers over 17 restarts took 0.9 s.
LONGEST_S = 2.0
# Few, because each takes a second to boot at each start.
WORKERS = 2 if FULL else 1

# Passes a socket on like systemd: as descriptor 3, which two variables announce.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "wsgi:app"])
"""


class Service:
    """A service with a socket of systemd, as in deploy/gateway.service.

    Attributes:
        url: its address.
        place: its JOURNAL_DIR.
    """

    def __init__(self, root: Path, settings: dict[str, str], log: Path) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._root, self._log = root, log
        self.place = Path(settings["JOURNAL_DIR"])
        self._starts = 0
        more = {"PORT": str(port), "WEB_CONCURRENCY": str(WORKERS), "RESTART_HANDOVER": "true"}
        # Long enough for a stream that outlives all restarts.
        more |= {"DRAIN_TIMEOUT": "200", "GRACEFUL_TIMEOUT": "210", "UPSTREAM_IDLE_TIMEOUT": "200"}
        self._environment = clean_environment() | settings | more
        self.start()

    def start(self, **more: str) -> None:
        """Starts the main process; `more` are further settings."""
        number = self._listener.fileno()
        self._starts += 1
        with self._log.open("ab") as log:
            self.main = subprocess.Popen(
                [sys.executable, "-c", ACTIVATE, str(number)],
                cwd=self._root,
                env=self._environment | more,
                stdout=log,
                stderr=log,
                pass_fds=[number],
            )

    def restart(self, **more: str) -> list[int]:
        """Stops the main process and starts another one, as `systemctl restart`; returns the workers of the first.

        Args:
            more: further settings of the second.
        """
        workers = [child.pid for child in psutil.Process(self.main.pid).children()]
        self.main.send_signal(RESTART_SIGNAL)
        assert self.main.wait(30) == 0
        self.start(**more)
        return workers

    def is_settled(self) -> bool:
        """Returns whether the last start has passed its checks, so that its children are workers."""
        return len(self.events("gateway_started")) == self._starts

    def events(self, name: str) -> list[dict[str, object]]:
        """Returns the lines of the log about an event."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if f'"event":"{name}"' in line]

    def close(self) -> None:
        """Ends everything, and waits for the workers."""
        workers = psutil.Process(self.main.pid).children()
        self.main.send_signal(signal.SIGQUIT)
        self.main.wait(30)
        psutil.wait_procs(workers, 30)
        self._listener.close()


@pytest.fixture
def service(tree: Path, tmp_path: Path, database_url: str, upstream: ScriptedUpstream) -> Iterator[Service]:
    service = Service(tree, base_settings(tmp_path, database_url) | upstream.settings, tmp_path / "log")
    try:
        wait_until(lambda: service.events("workers_started"), what="the workers")
        yield service
    finally:
        service.close()


class Clients:
    """Three clients, each of which sends one request after the other on new connections.

    Attributes:
        answers: (times of sending and of the whole answer on the monotonic clock, the answer).
    """

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, float, Seen]] = []
        self.failures: list[Exception] = []
        self._url = url
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._stop.is_set():
            sent_s = time.monotonic()
            try:
                seen = post(self._url, "quick")
                self.answers.append((sent_s, time.monotonic(), seen))
            except Exception as error:
                self.failures.append(error)

    def end(self) -> None:
        """Waits for the last answers."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def post(url: str, model: str, **more: object) -> Seen:
    """Sends a chat request."""
    headers = {"Authorization": f"Bearer {GATEWAY_KEY}"}
    return request("POST", url + "/v1/chat/completions", json=chat_body(PREFIX + model, **more), headers=headers)


@pytest.mark.load_sensitive("it measures how long clients wait while a gateway starts, which takes a core for seconds")
@pytest.mark.soak
def test_a_restart_under_load_refuses_nobody_and_lets_nobody_wait(
    service: Service, upstream: ScriptedUpstream, database_url: str, tree: Path
) -> None:
    gate, streamed = Gate(), list[Seen]()
    upstream.on_model("quick", [pause(0.05), *chat_answer("hi")])
    upstream.on_model("survivor", sse_stream([chunk("one"), wait_for(gate), chunk("two", finish="stop"), DONE]))
    survivor = threading.Thread(target=lambda: streamed.append(post(service.url, "survivor", stream=True)))
    survivor.start()
    upstream.wait_for(lambda seen: "survivor" in str(seen.body))
    clients = Clients(service.url)
    first: list[int] = []
    for number in range(1, examples(5) + 1):
        count = len(clients.answers)
        wait_until(lambda wanted=count + 5: len(clients.answers) > wanted)
        old = service.restart()
        first = first or old
        begun_s, count = time.monotonic(), len(clients.answers)
        wait_until(lambda wanted=number + 1: len(service.events("workers_started")) == wanted, what="the new workers")
        # Requests were answered before the new workers were ready.
        assert any(sent_s > begun_s for sent_s, _, _ in clients.answers[count:])
        left = 1 if number == 1 else 0  # The stream keeps one of the first workers.
        wait_until(lambda old=old, left=left: sum(map(is_alive, old)) == left, what="the old workers to end")
    clients.end()
    gate.open()
    port = service.url.rpartition(":")[2]
    wait_until(lambda: not any(map(is_alive, first)), what="the worker of the stream to end")
    gauges = {int(file.stem.rpartition("_")[2]) for file in tree.glob(f"var/metrics/{port}*/gauge_live*.db")}
    assert gauges.isdisjoint(first), "gauges of a worker that has ended are removed"
    survivor.join()
    assert clients.failures == [] and {seen.status for _, _, seen in clients.answers} == {200}
    assert b"two" in streamed[0].body and not streamed[0].cut
    ids = {seen.request_id for _, _, seen in clients.answers}
    wait_until(lambda: recorded(database_url) == ids, what="the rows of all requests")
    if FULL:
        # No client waits for the drain of the old workers, or for the start of the new ones.
        assert max(ended_s - sent_s for sent_s, ended_s, _ in clients.answers) < LONGEST_S
    gate.close()


@soak_only("test_operation_restart.py::test_a_restart_under_load_refuses_nobody_and_lets_nobody_wait")
def test_restarts_before_the_last_one_is_done_hand_over_all_who_serve(
    service: Service, upstream: ScriptedUpstream, database_url: str
) -> None:
    upstream.on_model("quick", [pause(0.05), *chat_answer("hi")])
    clients = Clients(service.url)
    serving = service.restart()
    for _ in range(3):
        # Restarts as soon as the worker processes exist, long before they serve.
        wait_until(lambda: psutil.Process(service.main.pid).children() and service.is_settled(), what="the next start")
        service.restart()
        (file,) = service.place.glob("handover-*.json")
        assert {str(pid) for pid in serving if is_alive(pid)} <= json.loads(file.read_text()).keys()
        assert all(map(is_alive, serving)), "who serves goes on until others do"
    count = len(service.events("workers_started"))
    wait_until(lambda: len(service.events("workers_started")) > count, what="the new workers")
    wait_until(lambda: not any(map(is_alive, serving)), what="the old workers to be told to drain")
    (file,) = service.place.glob("handover-*.json")
    assert {str(pid) for pid in serving}.isdisjoint(json.loads(file.read_text()))
    clients.end()
    assert clients.failures == [] and {seen.status for _, _, seen in clients.answers} == {200}
    ids = {seen.request_id for _, _, seen in clients.answers}
    wait_until(lambda: recorded(database_url) == ids, what="the rows of all requests")


@soak_only("server/test_restart.py::test_who_is_left_by_a_killed_main_process_is_told_to_drain")
def test_a_start_after_a_main_process_that_was_killed_takes_over_its_workers(service: Service) -> None:
    workers = [child.pid for child in psutil.Process(service.main.pid).children()]
    service.main.kill()
    service.main.wait(30)
    wait_until(lambda: len(service.events("main_process_lost")) == len(workers), what="the workers to notice")
    service.start()
    statuses = set[int]()

    def have_ended() -> bool:
        statuses.add(request("GET", service.url + "/ready").status)
        return not any(map(is_alive, workers))

    wait_until(have_ended, what="the old workers to be told to drain")
    assert statuses == {200} and len(service.events("workers_started")) == 2


@soak_only("server/test_restart.py::test_a_start_tells_the_old_workers_to_serve_on_while_it_waits_for_its_check")
def test_a_restart_while_the_database_is_frozen_leaves_the_old_workers_serving(service: Service) -> None:
    with ExitStack() as stack:
        # Servers that accept connections and say nothing; the start waits for each of them in turn, several times.
        frozen = [stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=640)) for _ in range(3)]
        hosts = ",".join(f"127.0.0.1:{server.getsockname()[1]}" for server in frozen)
        url = f"postgresql://u:p@{hosts}/x?target_session_attrs=read-write"
        old = service.restart(DATABASE_URL=url, DATABASE_DIRECT_URL=url)
        wait_until(service.is_settled, what="the end of the check")
        assert all(map(is_alive, old)), "nobody else serves yet"
        assert request("GET", service.url + "/ready").status == 200
        wait_until(lambda: len(service.events("workers_started")) == 2, what="the new workers")
        wait_until(lambda: not any(map(is_alive, old)), what="the old workers to be told to drain")


def recorded(database_url: str) -> set[object]:
    """Returns the ids of the recorded requests of the clients."""
    return {row["request_id"] for row in rows_where(database_url, "model_requested", PREFIX + "quick")}


def is_alive(pid: int) -> bool:
    """Returns whether a process is running that is not our child."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
