"""Mistakes of operators: one sentence that says what to do, or a warning if the gateway can work nevertheless."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg2
import pytest
import requests

from app.config import SettingsError, load_settings
from app.dev import EmbeddedPostgres
from app.runtime import use_settings
from app.server.open_files import fit_to_open_files, make_room_for_files
from tests.support.answers import DONE, chunk, sse_stream
from tests.support.chat import PREFIX, post_chat, request
from tests.support.gateway import (
    GATEWAY_KEY,
    Gateway,
    base_settings,
    clean_environment,
    free_port,
    start_gateway,
)
from tests.support.keys import create_key
from tests.support.postgres import Postgres
from tests.support.scripted_upstream import ScriptedUpstream
from tests.support.scripts import Gate, wait_for
from tests.support.soak import FULL, soak_only
from tests.support.tree import copy_tree
from tests.support.unprivileged import call_as_nobody, run_to_end
from tests.support.waiting import wait_until

GUNICORN = [sys.executable, "-m", "gunicorn", "wsgi:app"]
FLASK = [sys.executable, "-m", "flask", "--app", "wsgi", "db", "current"]
MAKE_RUN = [sys.executable, "-m", "app.dev"]
BEGINNINGS = {"gunicorn": "The gateway cannot start: ", "flask": "A setting is malformed: ", "app.dev": "make run: "}
NOWHERE = "postgresql://x@/x?host=/nonexistent"
PASSWORD = "canary-password"
OTHERS = soak_only("test_operation_boot_mistakes.py::test_a_settings_file_of_another_user")
FOLDER = soak_only("test_operation_boot_mistakes.py::test_a_folder_that_cannot_be_written")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project."""
    return copy_tree(tmp_path_factory.mktemp("mistakes") / "gateway")


@pytest.fixture
def checkout(copied: Path) -> Iterator[Path]:
    """The copy, restored after each test, which may change permissions and add `.env.local`, `var` and `parent`."""
    yield copied
    for place in (copied, *copied.rglob("*")):
        if place.is_dir():
            place.chmod(0o700)
    (copied / ".env.local").unlink(missing_ok=True)
    for name in ("var", "parent"):
        place = copied / name
        shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)


def refusal(command: list[str], root: Path, *, as_root: bool = False, **settings: str) -> str:
    """Runs a command that must not start, and returns the sentence with which it ends."""
    given = {"PORT": str(free_port()), "GATEWAY_API_KEY": GATEWAY_KEY, "DATABASE_URL": NOWHERE} | settings
    code, said = run_to_end(command, root, clean_environment() | given, as_root=as_root)
    assert code not in {0, None}, said
    (line,) = said.strip().splitlines()
    beginning = BEGINNINGS[command[2]]
    assert line.startswith(beginning) and line.endswith("."), line
    # Commands also name those that work without the settings.
    return line.removeprefix(beginning).removesuffix(" Only `doctor` and `version` work until this is mended.")


@pytest.mark.parametrize("command", [GUNICORN, *(pytest.param(each, marks=OTHERS) for each in (FLASK, MAKE_RUN))])
def test_a_settings_file_of_another_user(checkout: Path, command: list[str]) -> None:
    (checkout / ".env.local").touch(mode=0)
    said = refusal(command, checkout)
    assert said.startswith(f"{checkout}/.env.local cannot be read (Permission denied)")


def test_sockets_of_systemd_that_are_no_number(checkout: Path) -> None:
    assert refusal(GUNICORN, checkout, LISTEN_FDS="one").startswith("LISTEN_FDS is 'one'; systemd sets it to a number.")


def test_a_gunicorn_that_has_not_read_its_configuration(checkout: Path) -> None:
    # As happens with --chdir, or with -c and the operator's own file.
    code, said = run_to_end([*GUNICORN, "-c", os.devnull], checkout, clean_environment() | {"DATABASE_URL": NOWHERE})
    assert code == 4 and f"gunicorn has not read {checkout}/gunicorn.conf.py. Start it in that directory" in said


def test_code_of_another_user_that_cannot_be_read(checkout: Path) -> None:
    (checkout / "app").chmod(0)
    assert refusal(GUNICORN, checkout).startswith(f"this user may not read its code in {checkout}/app.")


def test_a_settings_file_in_utf_16(checkout: Path) -> None:
    (checkout / ".env.local").write_text("PORT=8000\n", "utf-16")
    assert refusal(GUNICORN, checkout).startswith(f"{checkout}/.env.local is not in UTF-8; save it again")


@pytest.mark.parametrize(("command", "place"), [(GUNICORN, "var/metrics"), pytest.param(MAKE_RUN, "var", marks=FOLDER)])
def test_a_folder_that_cannot_be_written(checkout: Path, command: list[str], place: str) -> None:
    checkout.chmod(0o500)
    assert re.search(rf"{checkout}/{place}\S*,? .*\(Permission denied\)", refusal(command, checkout))


@pytest.mark.parametrize(
    ("command", "place"), [pytest.param(GUNICORN, "var/metrics/8000", marks=FOLDER), (MAKE_RUN, "var/run.lock")]
)
def test_a_var_that_belongs_to_another_user(checkout: Path, command: list[str], place: str) -> None:
    (checkout / "var/metrics/8000").mkdir(parents=True)
    (checkout / "var/run.lock").touch(mode=0o444)
    (checkout / "var/metrics/8000").chmod(0o500)
    said = refusal(command, checkout, PORT="8000")
    assert f"{checkout}/{place}" in said and "(Permission denied)" in said


def test_an_address_of_another_machine(checkout: Path) -> None:
    said = refusal(GUNICORN, checkout, as_root=True, HOST="203.0.113.1", DATABASE_URL=NOWHERE)
    assert (
        said.startswith("203.0.113.1 is not an address of this machine. Set HOST to one that is") and "PORT" not in said
    )


@pytest.mark.parametrize("mistake", ["closed", "file"])
def test_a_journal_that_cannot_be_made(checkout: Path, mistake: str) -> None:
    parent = checkout / "parent"
    parent.mkdir(mode=0) if mistake == "closed" else parent.touch()
    said = refusal(GUNICORN, checkout, JOURNAL_DIR=str(parent / "journal"))
    reason = "Permission denied" if mistake == "closed" else "Not a directory"
    assert said.startswith(f"JOURNAL_DIR is {parent}/journal, which cannot be written ({reason}). Give that directory")


@soak_only("test_operation_boot_mistakes.py::test_a_settings_file_in_utf_16")
def test_a_number_of_workers_in_words(checkout: Path) -> None:
    # gunicorn reads the process environment before any of our code, so only the other two can report it well there.
    said = [refusal(command, checkout, WEB_CONCURRENCY="two") for command in (FLASK, MAKE_RUN)]
    (checkout / ".env.local").write_text("WEB_CONCURRENCY=two\n")
    said.append(refusal(GUNICORN, checkout))
    assert set(said) == {"WEB_CONCURRENCY is 'two'; it must be a whole number from 1 to 256."}


def test_an_address_of_the_database_that_is_half_a_password(checkout: Path) -> None:
    said = [refusal(GUNICORN, checkout, DATABASE_URL=f"postgresql://u:1@{PASSWORD}@h/d")]
    with pytest.raises(SettingsError) as refused:
        load_settings({"DATABASE_URL": f"postgresql://u:{PASSWORD}@h:no/d"})
    for line in (*said, str(refused.value)):
        assert line.startswith("DATABASE_URL has a") and "%40" in line and PASSWORD not in line


@contextlib.contextmanager
def a_role_with_a_password(server: Postgres) -> Iterator[str]:
    """Makes a role that the server asks for a password; yields its name."""
    ((rules,),) = server.execute("SHOW hba_file")
    path = Path(rules)
    before = path.read_text()
    server.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}-right'")
    path.write_text("local all guarded scram-sha-256\n" + before)
    server.execute("SELECT pg_reload_conf()")
    try:
        yield "guarded"
    finally:
        path.write_text(before)
        server.execute("SELECT pg_reload_conf()")
        server.execute("DROP ROLE guarded")


@soak_only("test_operation_boot_mistakes.py::test_an_address_of_the_database_that_is_half_a_password")
def test_a_wrong_password_and_a_missing_database(checkout: Path, postgres: Postgres) -> None:
    missing = postgres.database_url("no_such_database").replace("postgres@", f"postgres:{PASSWORD}@")
    with a_role_with_a_password(postgres) as role:
        wrong = postgres.url.replace("postgres@", f"{role}:{PASSWORD}@")
        said = {url: refusal(GUNICORN, checkout, as_root=True, DATABASE_URL=url) for url in (wrong, missing)}
    assert 'password authentication failed for user "guarded"' in said[wrong]
    assert 'database "no_such_database" does not exist' in said[missing]
    for line in said.values():
        assert line.startswith("the database refuses DATABASE_URL (") and "Correct the user, the password" in line
        assert PASSWORD not in line
    # Only gunicorn's workers use the directory, so a command accepts a path that is not one.
    given = {"DATABASE_URL": missing, "PROMETHEUS_MULTIPROC_DIR": str(checkout / "wsgi.py")}
    code, told = run_to_end(FLASK, checkout, clean_environment() | given, as_root=True)
    assert code == 1 and told.startswith("Error: The database refuses DATABASE_URL (") and told.count("\n") == 1


@pytest.fixture(scope="module")
def small_upstream() -> Iterator[ScriptedUpstream]:
    """The provider of the gateway with few open files."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
def gate(small_upstream: ScriptedUpstream) -> Iterator[Gate]:
    """The gate that streams of the provider's model `held` wait for."""
    gate = Gate()
    small_upstream.on_model("held", sse_stream([chunk("one"), wait_for(gate), chunk("two", finish="stop"), DONE]))
    yield gate
    gate.open()


@pytest.fixture(scope="module")
def small_settings(small_upstream: ScriptedUpstream, postgres: Postgres) -> dict[str, str]:
    """The settings of `small` in `.env.local`, which a reload reads again, unlike the main process's environment."""
    key = small_upstream.settings["FIREWORKS_API_KEY"]
    return {"DATABASE_URL": postgres.create_migrated_database(), "FIREWORKS_API_KEY": key}


@pytest.fixture(scope="module")
def small(
    copied: Path,
    small_upstream: ScriptedUpstream,
    small_settings: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway that may open only few files, and whose code and settings tests may change."""
    place = tmp_path_factory.mktemp("small")
    limits = ["sh", "-c", 'ulimit -S -n 120 && ulimit -H -n 160 && exec "$@"', "sh"]
    settings = base_settings(place, "") | small_upstream.settings
    write_settings(copied, small_settings)
    outside = {name: value for name, value in settings.items() if name not in small_settings}
    gateway = start_gateway(outside, root=copied, log=place / "log", prefix=limits)
    yield gateway
    gateway.stop()


def count_requests(gateway: Gateway) -> str:
    """Returns the lines of `/metrics` that count requests."""
    shown = request("GET", gateway.url + "/metrics", headers=gateway.headers).body.decode()
    return "\n".join(sorted(line for line in shown.splitlines() if line.startswith("gateway_requests_total{")))


@soak_only("test_operation_boot_mistakes.py::test_an_address_of_another_machine")
def test_without_keys_it_warns_and_a_second_start_on_its_port_leaves_its_metrics(
    tree: Path, tmp_path: Path, database_url: str
) -> None:
    settings = base_settings(tmp_path, database_url) | {"GATEWAY_API_KEY": ""}
    gateway = start_gateway(settings, root=tree, log=tmp_path / "log")
    try:
        use_settings(load_settings({"DATABASE_URL": database_url}))
        key, _ = create_key("alice")
        seen = post_chat(gateway, f"{PREFIX}x", key=key, provider="fireworks")
        assert (seen.status, seen.error["message"]) == (503, "Fireworks API key not configured")
        warned = [json.loads(line) for line in gateway.log().splitlines() if "boot_check_failed" in line]
        assert [row["check"] for row in warned] == ["provider_keys", "gateway_key"]
        assert "FIREWORKS_API_KEY" in warned[0]["reason"] and "GATEWAY_API_KEY" in warned[1]["reason"]

        before = wait_until(lambda: count_requests(gateway), what="the request to be counted")
        code, said = run_to_end(GUNICORN, tree, clean_environment() | settings | {"PORT": str(gateway.port)})
        assert code == 1 and said.count("\n") == 1
        assert said.startswith(f"The gateway cannot start: port {gateway.port} of ") and "already in use" in said
        assert count_requests(gateway) == before
    finally:
        use_settings(None)
        gateway.stop()


def test_with_few_open_files_it_serves_fewer_requests_and_says_so(small: Gateway, gate: Gate) -> None:
    live, connections = fit_to_open_files(4000, 160)
    (warned,) = [json.loads(line) for line in small.log().splitlines() if "live_requests_lowered" in line]
    assert (warned["max_live_requests"], warned["effective"], warned["open_files"]) == (4000, live, 160)
    assert 1 < live < connections < 160
    assert wait_until(small.worker_pids) and all(
        re.search(r"Max open files +160 +160 ", Path(f"/proc/{pid}/limits").read_text()) for pid in small.worker_pids()
    ), "the soft limit is raised to the hard one"
    with contextlib.ExitStack() as held:
        for _ in range(live):
            held.enter_context(open_stream(small))
        refused = post_chat(small, f"{PREFIX}held")
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        gate.open()


def test_a_worker_that_is_replaced_has_the_settings_of_before_whatever_the_files_say(
    small: Gateway, small_settings: dict[str, str], small_upstream: ScriptedUpstream, copied: Path
) -> None:
    (worker,) = wait_until(small.worker_pids)
    write_settings(copied, small_settings | {"FIREWORKS_API_KEY": "fw_other", "no setting": ""})
    os.kill(worker, signal.SIGKILL)
    assert post_chat(small, f"{PREFIX}x").status == 200
    assert read_provider_key(small_upstream) == small_settings["FIREWORKS_API_KEY"]
    assert "worker_start_failed" not in small.log() and worker not in small.worker_pids()
    write_settings(copied, small_settings)


@pytest.mark.long_form
def test_a_bad_reload_is_refused_and_a_good_one_loads_the_code_and_cuts_nobody(
    small: Gateway, small_settings: dict[str, str], small_upstream: ScriptedUpstream, gate: Gate, copied: Path
) -> None:
    workers, route = small.worker_pids(), copied / "app/routes/health.py"
    with open_stream(small) as stream:
        prices = {"PRICE_FILE": str(copied / "nowhere.toml")}
        mistakes = [
            ({"RETENTION_DAYS": "1", "UPSTREAM_RETRIES": "many"}, "UPSTREAM_RETRIES is 'many'"),
        ]
        if FULL:  # Each takes a start of the main process.
            mistakes += [
                ({"FIREWORKS_API_KEY": ""}, "no provider has a key, so no model can be served"),
                ({"DATABASE_URL": NOWHERE}, "the database does not answer: .* in DATABASE_URL"),
                ({"DATABASE_DIRECT_URL": NOWHERE}, "the database does not answer: .* in DATABASE_DIRECT_URL"),
                (prices, "PRICE_FILE .*nowhere.toml"),
                ({"HOST": "127.0.0.2"}, "HOST has changed and PORT has not.* Restart the gateway instead"),
            ]
        for number, (bad, said) in enumerate(mistakes, 1):
            write_settings(copied, small_settings | bad)
            small.send_signal(signal.SIGHUP)
            wait_until(lambda number=number: len(refused_reloads(small)) == number, what="the refusal of the reload")
            assert re.search(said, refused_reloads(small)[-1]), refused_reloads(small)[-1]
        assert small.worker_pids() == workers and post_chat(small, f"{PREFIX}x").status == 200
        # The check finds mistakes that prevent a start, but not those in a worker. The previous workers then serve on.
        write_settings(copied, small_settings)
        if FULL:
            start = copied / "app/server/lifecycle.py"
            code = start.read_text()
            start.write_text(code.replace("    start_keys()\n", "    raise RuntimeError('a mistake in the update')\n"))
            small.send_signal(signal.SIGHUP)
            wait_until(lambda: small.log().count('"event":"worker_start_failed"') > 1, what="two failed starts")
            assert "a mistake in the update" in small.log()
            assert set(workers) <= set(small.worker_pids()) and post_chat(small, f"{PREFIX}x").status == 200
            start.write_text(code)
        route.write_text(route.read_text().replace('"llm-gateway"', '"updated"'))
        write_settings(copied, small_settings | {"FIREWORKS_API_KEY": "fw_other"})
        small.send_signal(signal.SIGHUP)
        # Like the probes of a load balancer, each of which may reach another worker.
        probes = Counter[int]()
        while request("GET", small.url + "/").json["service"] != "updated" or probes.total() < 100:
            probes[request("GET", small.url + "/ready").status] += 1
            time.sleep(0.02)
        assert set(probes) == {200} and "readiness_lost" not in small.log()
        assert set(workers) <= set(small.worker_pids()), "the old worker serves the stream"
        gate.open()
        assert b"two" in (rest := b"".join(stream)) and rest.endswith(b"[DONE]\n\n")
    wait_until(lambda: not set(workers) & set(small.worker_pids()), what="the old worker to end")
    assert post_chat(small, f"{PREFIX}x").status == 200 and read_provider_key(small_upstream) == "fw_other"


def test_workers_whose_main_process_is_killed_finish_their_streams_and_end(small: Gateway, gate: Gate) -> None:
    # A worker of an earlier reload may still be ending.
    (worker,) = wait_until(lambda: len(pids := small.worker_pids()) == 1 and pids, what="one worker")
    with open_stream(small) as stream:
        small.send_signal(signal.SIGKILL)
        wait_until(lambda: '"event":"main_process_lost"' in small.log(), what="the worker to notice")
        gate.open()
        assert b"".join(stream).endswith(b"[DONE]\n\n")
    wait_until(lambda: not psutil.pid_exists(worker), what="the worker to end")


@soak_only(
    "test_operation_boot_mistakes.py::test_a_bad_reload_is_refused_and_a_good_one_loads_the_code_and_cuts_nobody"
)
@pytest.mark.parametrize("mistake", ["RuntimeError('a mistake in the update')", "SystemExit('A mistake. Correct it.')"])
def test_workers_that_cannot_start_end_the_gateway_with_lines_of_the_log(copied: Path, mistake: str) -> None:
    start = copied / "app/server/lifecycle.py"
    code = start.read_text()
    start.write_text(code.replace("    start_keys()\n", f"    raise {mistake}\n"))
    given = {"PORT": str(free_port()), "GATEWAY_API_KEY": GATEWAY_KEY, "DATABASE_URL": NOWHERE}
    try:
        ended, said = run_to_end(GUNICORN, copied, clean_environment() | given, as_root=True)
    finally:
        start.write_text(code)
    lines = {line["event"]: line for line in map(json.loads, said.splitlines())}
    failed = lines["worker_start_failed"]
    assert ended == 3 and failed["next_step"].startswith("The gateway stops.")
    if mistake.startswith("SystemExit"):
        assert failed["reason"] == "A mistake. Correct it."
    else:
        assert "a mistake in the update" in failed["traceback"]
    assert "exited with code 3" in lines["worker_failed"]["message"] and lines["gateway_stopped"]


def write_settings(root: Path, settings: dict[str, str]) -> None:
    """Writes `.env.local`."""
    (root / ".env.local").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))


def read_provider_key(upstream: ScriptedUpstream) -> str:
    """Returns the key that the last chat request to the provider had."""
    return [seen for seen in upstream.requests if seen.body][-1].headers["authorization"].removeprefix("Bearer ")


def refused_reloads(gateway: Gateway) -> list[str]:
    """Returns the reasons for which reloads were refused so far."""
    lines = [json.loads(line) for line in gateway.log().splitlines() if '"event":"reload_refused"' in line]
    return [str(line["reason"]) for line in lines]


@contextlib.contextmanager
def open_stream(gateway: Gateway) -> Iterator[Iterator[bytes]]:
    """A stream whose first event has arrived, for the length of a `with` block; yields the rest of it."""
    body = {"model": f"{PREFIX}held", "stream": True, "messages": [{"role": "user", "content": "Hello!"}]}
    url = f"{gateway.url}/v1/chat/completions"
    with requests.post(url, json=body, headers=gateway.headers, stream=True, timeout=20) as answer:
        pieces = answer.iter_content(None)
        assert next(pieces).startswith(b"data: {")
        yield pieces


@pytest.mark.skipif(sys.platform != "linux", reason="Other systems do not tell the size of the table.")
def test_the_table_of_open_files_is_large_from_the_start() -> None:
    def get_size() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.partition("FDSize:")[2].split()[0])

    connections = get_size() + 1
    make_room_for_files(connections, sys.maxsize)
    assert (size := get_size()) >= connections
    make_room_for_files(10**9, size + 1)  # Not more than the limit on open files.
    assert size < get_size() <= 4 * size


@pytest.mark.parametrize("open_files", [1, 64, 256, 1024, 4096, 20_000, 1 << 20, sys.maxsize])
def test_all_connections_fit_into_the_open_files(open_files: int) -> None:
    live, connections = fit_to_open_files(4000, open_files)
    assert 1 <= live <= 4000 and live <= connections
    assert open_files < 256 or connections + live < open_files - 64
    assert open_files < 20_000 or (live, connections) == (4000, 9000)


def test_the_embedded_server_serves_only_the_user_who_started_it(victim: Postgres) -> None:
    ((rules,),) = victim.execute("SHOW hba_file")
    victim.stop()
    # The rules in data directories of earlier versions.
    Path(rules).write_text("local all all trust\nhost all all 127.0.0.1/32 trust\n")
    victim.start()
    assert victim.execute("SELECT type, auth_method FROM pg_hba_file_rules") == [("local", "peer")]
    ((sockets,),) = victim.execute("SHOW unix_socket_directories")
    place = sockets.strip('"')
    assert os.stat(place).st_mode & 0o777 == 0o700
    said = call_as_nobody(lambda: psycopg2.connect(host=place, user="postgres", dbname="postgres"))
    assert 'Peer authentication failed for user "postgres"' in said


def test_an_embedded_server_of_another_user_is_refused_with_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / "postgres"
    place.mkdir()
    for parent in (place, *place.parents):
        if parent.stat().st_uid == os.geteuid() and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    said = call_as_nobody(lambda: EmbeddedPostgres(place))
    assert said.startswith(f"{place} belongs to another user: run as that user") and "\n" not in said
