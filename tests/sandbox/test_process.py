"""The sandbox as a process: it prints one line when it starts, stops on a signal, and leaves nothing running."""

import signal
import subprocess
import sys

import psutil
import pytest

from tests.sandbox.client import PREFIX, TIMEOUT_S, Server, read_url, run_sandbox
from tests.support.soak import soak_only
from tests.support.waiting import wait_until

CTRL_C = soak_only("sandbox/test_process.py::test_a_signal_ends_it_with_open_streams_and_no_second_line")
# A parent that starts a sandbox, whose line is printed, and then waits to be killed.
PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "app.sandbox", "--die-with-parent"])
time.sleep(600)
"""


def get_processes(server: Server) -> list[psutil.Process]:
    """Returns a server's process and its descendants: gunicorn's master and its one worker."""
    # The line is printed once connections are accepted. After the first response, the worker exists too.
    assert server.get("/").status_code == 200
    first = psutil.Process(server.process.pid)
    descendants = first.children(recursive=True)
    assert len(descendants) in (1, 2)
    return [first, *descendants]


def has_ended(process: psutil.Process) -> bool:
    """Returns whether a process has ended; a zombie, which its parent has not reaped yet, counts as ended."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=CTRL_C)])
def test_a_signal_ends_it_with_open_streams_and_no_second_line(number: signal.Signals) -> None:
    with run_sandbox() as server:
        processes = get_processes(server)
        assert not any(one.laddr for process in processes for one in process.net_connections("unix"))
        with server.misbehave("sandbox-stall", stream=True) as response:
            next(response.iter_content(10))
            server.process.send_signal(number)
            assert server.process.wait(TIMEOUT_S) == 0
        assert server.process.stdout is not None
        assert server.process.stdout.read() == ""
        wait_until(lambda: all(has_ended(process) for process in processes))


def test_it_dies_with_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        try:
            processes = get_processes(Server(read_url(parent), parent))[1:]
        finally:
            parent.kill()
    wait_until(lambda: all(has_ended(process) for process in processes))


def test_it_ends_when_only_its_master_is_killed() -> None:
    with run_sandbox() as server:
        processes = get_processes(server)
        server.process.kill()
        wait_until(lambda: all(has_ended(process) for process in processes))


def test_unknown_paths_and_methods_get_404_and_405(server: Server) -> None:
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
