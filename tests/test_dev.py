"""`make run` starts everything with one command, keeps its key and its data, and leaves no process running."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
import requests

from tests.support.dev_run import DevRun
from tests.support.gateway import clean_environment
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.soak import FULL, soak_only
from tests.support.tree import copy_tree
from tests.support.unprivileged import run_to_end
from tests.support.waiting import wait_until

StartRun = Callable[..., DevRun]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all runs: each finds the database and the key of the previous one."""
    # Too long for the path of a Unix socket, and with characters at which shells and lists are split.
    place = tmp_path_factory.mktemp("dev") / ("a, long directory's name " + "x" * 80)
    return copy_tree(place / "gateway")


@pytest.fixture
def start_run(checkout: Path) -> Iterator[StartRun]:
    runs: list[DevRun] = []

    def start(settings: Mapping[str, str] | None = None, **options: Any) -> DevRun:
        # One worker, because each takes half a second to start.
        runs.append(DevRun(checkout, {"WEB_CONCURRENCY": "1"} | dict(settings or {}), **options))
        return runs[-1]

    yield start
    for run in runs:
        run.stop(signal.SIGTERM)


# A run takes some seconds, so a test checks several independent things with one run.


@pytest.mark.long_form
def test_the_printed_commands_work_and_the_next_run_has_the_same_key_settings_and_data(
    start_run: StartRun, checkout: Path
) -> None:
    (checkout / ".env.local").write_text("# mine\nPUBLIC_STATS=false")
    # Only a second Ctrl-C ends it before its requests have ended.
    first = start_run(settings={"GRACEFUL_TIMEOUT": "3600", "DRAIN_TIMEOUT": "3599"})
    wait_until(lambda: (checkout / "var" / "run.lock").exists() and len(first.processes()) > 1)
    if FULL:
        beside = start_run()
        assert beside.wait() == 1
        assert f"already runs in this directory, as process {first.process.pid}" in beside.text()
    banner = first.wait_for_banner()
    assert "SANDBOX" in banner and "docs/sandbox.md" in banner
    assert stat.S_IMODE((checkout / ".env.local").stat().st_mode) == 0o600
    # The developer has set it, so the run does not add it to the environment.
    assert _child(first, "gunicorn").environ().get("PUBLIC_STATS") is None
    _execute(first, "CREATE TABLE kept AS SELECT 42 AS answer")
    if shutil.which("curl"):
        _check_the_printed_curl_command(first)
    _check_that_commands_find_the_run(first, checkout)
    _check_the_printed_link(first)
    assert len(first.processes()) > 5
    _check_that_a_second_ctrl_c_does_not_wait_for_running_requests(first)
    assert not (checkout / "var" / "run.json").exists()

    if FULL:
        _check_that_the_next_run_has_the_same(first, start_run(), checkout)
    (checkout / ".env.local").unlink()


def _check_that_the_next_run_has_the_same(first: DevRun, second: DevRun, checkout: Path) -> None:
    second.wait_for_banner()
    lines = (checkout / ".env.local").read_text().splitlines()
    assert lines[:2] == ["# mine", "PUBLIC_STATS=false"]
    assert lines[2:] == ["GATEWAY_API_KEY=" + second.find(r"Key +(\S+)")]
    assert first.find(r"Key +(\S+)") == second.find(r"Key +(\S+)")
    assert _execute(second, "SELECT answer FROM kept") == [(42,)]
    _check_that_the_end_of_a_part_ends_it(second, "postgres", "PostgreSQL")


def _check_the_printed_curl_command(run: DevRun) -> None:
    curl = run.find(r"^(curl -X POST .*?\n  \}')")
    completion = json.loads(_shell(curl))
    assert completion["model"] and completion["choices"][0]["message"]["content"].startswith("[sandbox]")
    streamed = _shell(curl.replace("curl ", "curl -N ", 1).replace('"provider"', '"stream": true, "provider"'))
    assert streamed.startswith("data: {") and streamed.endswith("data: [DONE]\n\n")


def _check_that_commands_find_the_run(run: DevRun, checkout: Path) -> None:
    """Runs `bin/gateway` from another directory, in an environment without settings, and through a link."""
    (checkout / ".venv").symlink_to(sys.prefix)
    linked = checkout.parent / "gateway-command"
    linked.symlink_to(checkout / "bin" / "gateway")

    def call(command: str) -> tuple[int, str]:
        return run_to_end(["bash", "-c", command], checkout.parent, clean_environment(), as_root=True)

    assert call("./gateway-command keys create alice")[1].startswith("gw_")
    assert _execute(run, "SELECT name FROM api_key") == [("alice",)]
    if FULL:
        assert call("./gateway-command keys env") == (0, run.find(r"Key +(\S+)") + "\n")
        version = requests.get(run.url + "/health", timeout=20).json()["version"]
        assert call("./gateway-command --version") == call("./gateway-command version") == (0, f"{version}\n")
        code, said = call("./gateway-command doctor --json")
        found = {each["check"]: each for each in map(json.loads, said.splitlines())}
        assert code == 0 and "is accepted" in found["fireworks"]["text"], said
    assert stat.S_IMODE((checkout / "var" / "run.json").stat().st_mode) == 0o600


def _check_the_printed_link(run: DevRun) -> None:
    address, token = run.find(r"Dashboard +(http\S+)").split("?token=")
    assert address == f"{run.url}/dashboard/link"
    with requests.Session() as session:
        for _ in range(2):  # A program that previews the link must not use it up.
            assert "Open the dashboard" in session.get(f"{address}?token={token}", timeout=20).text
        page = session.post(address, data={"token": token}, headers={"Origin": run.url}, timeout=20)
        assert page.url == f"{run.url}/dashboard/" and "GATEWAY_API_KEY" in page.text and "sandbox" in page.text
    again = requests.post(address, data={"token": token}, headers={"Origin": run.url}, timeout=20)
    assert again.status_code == 401 and "can be used once" in again.text


def _check_that_a_second_ctrl_c_does_not_wait_for_running_requests(run: DevRun) -> None:
    body = {"model": "sandbox-stall", "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    headers = {"Authorization": "Bearer " + run.find(r"Key +(\S+)")}
    url = f"{run.url}/v1/chat/completions"
    with requests.post(url, json=body, headers=headers, stream=True, timeout=20) as response:
        assert next(response.iter_content(None)).startswith(b"data: {")
        run.process.send_signal(signal.SIGINT)
        wait_until(lambda: "Ctrl-C again" in run.text())
        assert run.stop() == 0
    assert run.processes() == []
    assert "Traceback" not in run.text()


def test_a_signal_while_starting_stops_everything(start_run: StartRun) -> None:
    run = start_run()
    wait_until(lambda: len(run.processes()) > 1)
    assert run.stop(signal.SIGHUP) == 0
    assert run.processes() == []
    assert "Traceback" not in run.text()


@soak_only("test_dev.py::test_the_printed_commands_work_and_the_next_run_has_the_same_key_settings_and_data")
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux signals children when their parent dies")
def test_nothing_outlives_a_killed_run_and_the_next_one_starts(start_run: StartRun) -> None:
    run = start_run()
    run.wait_for_banner()
    # By default the developer can read the statistics, and no other machine can connect.
    assert _child(run, "gunicorn").environ().get("PUBLIC_STATS") == "true"
    listening = [row.laddr.ip for row in _child(run, "gunicorn").net_connections("tcp") if row.status == "LISTEN"]
    assert listening == ["127.0.0.1"], "other machines can connect"
    _execute(run, "CREATE TABLE killed AS SELECT 42")
    run.process.kill()
    run.wait()
    # Immediately, while the server of the killed run may still be shutting down.
    again = start_run()
    again.wait_for_banner()
    assert again.find(r"Key +(\S+)") == run.find(r"Key +(\S+)")
    assert _execute(again, "SELECT 42 FROM killed") == [(42,)]
    _check_that_the_end_of_a_part_ends_it(again, "app.sandbox", "the sandbox")


@soak_only("test_dev.py::test_the_printed_commands_work_and_the_next_run_has_the_same_key_settings_and_data")
def test_a_gateway_that_fails_to_boot_reports_why_and_ends_the_run(start_run: StartRun, checkout: Path) -> None:
    source = (checkout / "wsgi.py").read_text()
    (checkout / "wsgi.py").write_text("raise RuntimeError('broken on purpose')\n")
    run = start_run()
    try:
        assert run.wait() == 1
    finally:
        (checkout / "wsgi.py").write_text(source)
    assert "broken on purpose" in run.text()
    assert "make run: gunicorn ended with exit code" in run.text()
    assert run.processes() == []


def test_a_port_in_use_is_reported_in_one_sentence(start_run: StartRun) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        run = start_run(port=taken.getsockname()[1])
        assert run.wait() == 1
    assert run.text().startswith(f"make run: Port {run.port} ") and run.text().count("\n") == 1


def test_a_bad_setting_is_reported_in_one_sentence(start_run: StartRun) -> None:
    run = start_run(settings={"STREAM_HEARTBEAT": "soon"})
    assert run.wait() == 1
    assert run.text().startswith("make run: STREAM_HEARTBEAT is 'soon'") and run.text().count("\n") == 1


@soak_only("test_dev.py::test_a_bad_setting_is_reported_in_one_sentence")
def test_a_database_that_is_away_is_reported_with_who_named_it(start_run: StartRun) -> None:
    # As if the developer had exported the address that an earlier run printed.
    run = start_run(settings={"DATABASE_URL": "postgresql:///gateway?host=/none"})
    assert run.wait() == 1
    lines = run.text().strip().split("\n")
    assert lines[0].startswith("make run: The database does not answer: connection to server on socket"), lines
    assert "DATABASE_URL is set in the environment" in lines[-1] and "unset DATABASE_URL, and make run" in lines[-1]


def test_a_provider_address_without_its_key_is_not_replaced_by_the_sandbox(start_run: StartRun) -> None:
    run = start_run(settings={"FIREWORKS_BASE_URL": "http://127.0.0.1:9/v1"})
    assert run.wait() == 1
    assert "FIREWORKS_API_KEY is not" in run.text()


@soak_only("test_dev.py::test_the_printed_commands_work_and_the_next_run_has_the_same_key_settings_and_data")
def test_with_own_keys_and_database_nothing_is_embedded_and_no_secret_is_printed(
    start_run: StartRun, upstream: ScriptedUpstream, database_url: str
) -> None:
    settings = {
        "FIREWORKS_BASE_URL": upstream.base_url,
        "FIREWORKS_API_KEY": "fw_mine",
        "GATEWAY_API_KEY": "gw_mine_is_longer",
        "DATABASE_URL": database_url,
    }
    run = start_run(settings=settings)
    printed = run.wait_for_banner()
    body = {"model": "accounts/fireworks/models/scripted", "messages": [{"role": "user", "content": "Hello!"}]}
    url, headers = f"{run.url}/v1/chat/completions", {"Authorization": "Bearer gw_mine_is_longer"}
    response = requests.post(url, json=body, headers=headers, timeout=20)

    assert response.json()["choices"][0]["message"]["content"] == "Hello from the script."
    assert upstream.wait_for(lambda seen: seen.method == "POST").headers["authorization"] == "Bearer fw_mine"
    assert "Bearer $GATEWAY_API_KEY" in printed and "SANDBOX" not in printed
    assert not any(secret in printed for secret in ("gw_mine", "fw_mine", database_url))
    assert not any("postgres" in command or "sandbox" in command for command in run.processes())
    assert run.stop(signal.SIGTERM) == 0
    assert run.processes() == []
    assert "Traceback" not in run.text()


def _check_that_the_end_of_a_part_ends_it(run: DevRun, part: str, name: str) -> None:
    """Kills a part, and fails unless that is reported and no process is left."""
    _child(run, part).kill()
    assert run.wait() == 1
    assert run.find("make run: (.*) was ended by signal 9") == name
    wait_until(lambda: run.processes() == [])


def _shell(command: str) -> str:
    done = subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


def _child(run: DevRun, part: str) -> psutil.Process:
    children = psutil.Process(run.process.pid).children()
    (child,) = [child for child in children if part in " ".join(child.cmdline())]
    return child


def _execute(run: DevRun, sql: str) -> list[Any]:
    address = run.find(r"DATABASE_URL='(\S+)'")
    with closing(psycopg2.connect(address)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []
