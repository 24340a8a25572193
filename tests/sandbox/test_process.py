"""The sandbox as a process: it starts with one line, ends when told to and leaves nothing behind."""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from tests.sandbox.client import PREFIX, TIMEOUT_S, Server, read_url, run_sandbox
from tests.support.waiting import wait_until

# A parent that starts a sandbox, passes on its line and then waits to be killed.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "app.sandbox", "--die-with-parent"])
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_open_streams_and_no_second_line(number: signal.Signals) -> None:
    with run_sandbox() as server:
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
        assert len(processes) == 2  # gunicorn's master and its worker.
        with server.misbehave("sandbox-stall", stream=True) as response:
            next(response.iter_content(10))
            server.process.send_signal(number)
            assert server.process.wait(TIMEOUT_S) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        _, alive = psutil.wait_procs(processes, TIMEOUT_S)
        assert alive == []


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        url = read_url(parent)
        family = psutil.Process(parent.pid).children(recursive=True)
        assert len(family) == 2
        assert Server(url, parent).get("/").status_code == 200
        parent.kill()
    _, alive = psutil.wait_procs(family, TIMEOUT_S)
    assert alive == []


def test_it_ends_when_only_its_master_is_killed() -> None:
    with run_sandbox() as server:
        [worker] = psutil.Process(server.process.pid).children()
        os.kill(server.process.pid, signal.SIGKILL)
        worker.wait(TIMEOUT_S)


def test_it_keeps_its_management_socket_closed() -> None:
    with run_sandbox() as server:
        processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children()]
        sockets = [one for process in processes for one in process.net_connections("unix")]
        assert [one.laddr for one in sockets if one.laddr] == []


def test_unknown_paths_and_methods_are_told_so(server: Server) -> None:
    assert server.get("/nothing").status_code == 404
    response = server.get("/inference/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.headers["x-sandbox"] == "1"


def test_a_request_is_counted_when_it_arrives(server: Server) -> None:
    path = "/inference/v1/chat/completions"
    before = server.get_stats()["by_path"].get(path, 0)
    with server.misbehave("sandbox-stall", stream=True):
        wait_until(lambda: server.get_stats()["by_path"][path] == before + 1)
    assert "/sandbox/stats" not in server.get_stats()["by_path"]
    assert server.get_stats()["by_model"][PREFIX + "sandbox-stall"] >= 1
