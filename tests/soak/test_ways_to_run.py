"""The ways to run the gateway, each from a fresh clone to an answer, with the commands as the pages print them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import yaml

from tests.support.gateway import GATEWAY_KEY, clean_environment, free_port
from tests.support.image import read_image
from tests.support.postgres import Postgres
from tests.support.sandbox import Sandbox
from tests.support.soak import FULL
from tests.support.tree import ROOT
from tests.support.unprivileged import run_to_end
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(not FULL, reason="installs all packages of `make run`"),
    pytest.mark.skipif(not (shutil.which("git") and shutil.which("curl")), reason="git or curl is not installed"),
]

# Long, because the first command installs all packages from the network.
_INSTALL_TIMEOUT_S = 300.0
# Placeholders that a reader replaces.
_IDS = re.compile(r"4fGh2Kl9Pq|\bID\b|\bWORKER_ID\b")
# Left out, because it would run this test.
_LEFT_OUT = ("make test",)


class Shell:
    """Runs commands one after the other, with the variables that earlier ones have exported."""

    def __init__(self, place: Path, port: int) -> None:
        self._place, self._port = place, port
        self._exports: list[str] = []

    def run(self, command: str) -> tuple[int, str]:
        """Runs a command, and returns its exit code and its output."""
        command = command.replace("localhost:8000", f"localhost:{self._port}")
        script = "\n".join([*self._exports, command])
        if command.startswith("export "):
            self._exports.append(command)
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._place,
            env=clean_environment(),
            input="y\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with exactly the files of a clone of the project, including uncommitted changes."""
    place = tmp_path_factory.mktemp("newcomer") / "gateway"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    return place


@pytest.fixture(scope="module")
def port() -> int:
    """The port in the README or, if it is taken, another one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", 8000))
        except OSError:
            return free_port()
    return 8000


@pytest.fixture
def shell(clone: Path, port: int) -> Iterator[Shell]:
    """A second terminal, in the clone, while `make run` runs in the first."""
    log = clone.parent / "run.log"
    environment = clean_environment() | {name: os.environ[name] for name in os.environ if name.startswith("PIP_")}
    with log.open("wb") as output:
        run = subprocess.Popen(
            ["make", "run"],
            cwd=clone,
            env=environment | ({} if port == 8000 else {"PORT": str(port)}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: run.poll() is not None or "Ctrl-C stops" in log.read_text(), _INSTALL_TIMEOUT_S, "`make run`"
        )
        assert run.poll() is None, log.read_text()
        yield Shell(clone, port)
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGINT)
        run.wait(60)


def read_commands() -> list[str]:
    """Returns the commands of the README in order; a command continues over lines until its quotes are closed."""
    commands: list[str] = []
    for block in re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE):
        command = ""
        for line in block.splitlines():
            command = f"{command}\n{line}" if command else line
            if not line.endswith("\\") and command.count("'") % 2 == 0:
                commands.append(command)
                command = ""
    return commands


def test_the_readmes_commands_work_as_printed_from_a_fresh_clone(shell: Shell) -> None:
    commands = read_commands()
    assert commands[0].startswith("make run ") and len(commands) > 12
    ids: list[str] = []
    for command in commands[1:]:
        if command.startswith(_LEFT_OUT):
            continue
        found = _IDS.search(command)
        printed = command.replace(found[0], ids[-1]) if found and "revoke" in command else command
        code, said = shell.run(printed)
        if found and printed == command:
            # The id is only an example, so the command says in one sentence that it does not exist.
            assert code == 1 and "Traceback" not in said and said.count("Error: ") == 1, (command, said)
        else:
            assert code == 0 and "Traceback" not in said, (command, said)
        ids += re.findall(r"^Id (\S+),", said, re.MULTILINE)
        if "chat/completions" in command:
            answer, _ = json.JSONDecoder().raw_decode(said)
            assert answer["choices"][0]["message"]["content"].startswith("[sandbox] Hello!")
    assert len(ids) == 3


@pytest.fixture
def settings(clone: Path, postgres: Postgres, sandbox: Sandbox) -> Iterator[dict[str, str]]:
    """The settings of a gateway with an empty database, without its port."""
    url = postgres.create_database()
    yield sandbox.settings | {"DATABASE_URL": url, "GATEWAY_API_KEY": GATEWAY_KEY, "WEB_CONCURRENCY": "1"}
    postgres.drop_database(url)


def ask(port: int) -> str:
    """Sends the README's first request with curl, as soon as the gateway listens; returns the model's answer."""
    (command,) = [one for one in read_commands() if "chat/completions" in one]
    command = command.replace("localhost:8000", f"127.0.0.1:{port}").replace("curl ", "curl --silent --fail-with-body ")
    environment = clean_environment() | {"GATEWAY_API_KEY": GATEWAY_KEY}

    def answer() -> str:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
        return done.stdout if done.returncode == 0 else ""

    wait_until(answer, what="an answer")
    content: str = json.loads(answer())["choices"][0]["message"]["content"]
    return content


@contextmanager
def started(command: list[str], place: Path, environment: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen]:
    """Runs a command in the background, and ends it like a terminal."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def find_venv(clone: Path) -> Path:
    """Returns the clone's virtual environment, or this one if the tests that make it were left out."""
    return clone / ".venv" if (clone / ".venv").exists() else Path(sys.prefix)


def in_venv(clone: Path) -> dict[str, str]:
    """Returns the environment of a shell in which the clone's virtual environment is active."""
    environment = clean_environment()
    return environment | {"PATH": f"{find_venv(clone) / 'bin'}:{environment['PATH']}"}


def test_the_first_start_works_as_printed(clone: Path, settings: dict[str, str]) -> None:
    (block,) = re.findall(r"```bash\n(python3 -m venv.*?)```", (ROOT / "docs/deploy.md").read_text(), re.DOTALL)
    for name in ("DATABASE_URL", "FIREWORKS_API_KEY", "GATEWAY_API_KEY"):
        value = settings.pop(name)
        block, count = re.subn(rf"(?<={name}=)\S+", lambda _, value=value: shlex.quote(value), block)
        assert count == 1, name
    port = free_port()
    added = settings | {"PORT": str(port)}  # Settings that the page does not name: the sandbox, and one worker.
    log = clone.parent / "first.log"
    with started(["bash", "-ec", block], clone, clean_environment() | added, log) as shell:
        wait_until(lambda: "workers_started" in log.read_text() or shell.poll() is not None, 120.0, "the start")
        assert shell.poll() is None, log.read_text()
        assert ask(port).startswith("[sandbox] Hello!")


def test_the_procfile_runs_under_honcho(clone: Path, settings: dict[str, str]) -> None:
    (clone / ".env.local").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    honcho = [str(Path(sys.executable).with_name("honcho")), "-e", ".env.local"]
    port, log = free_port(), clone.parent / "honcho.log"
    try:
        code, said = run_to_end([*honcho, "start", "release"], clone, in_venv(clone), as_root=True)
        assert code == 0, said
        with started([*honcho, "start", "-p", str(port), "web"], clone, in_venv(clone), log):
            assert ask(port).startswith("[sandbox] Hello!"), log.read_text()
    finally:
        (clone / ".env.local").unlink()
    assert "Traceback" not in log.read_text()


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"), reason="systemd-socket-activate is not installed")
def test_the_units_start_a_gateway_on_systemds_socket(clone: Path, settings: dict[str, str], tmp_path: Path) -> None:
    """Follows deploy/gateway.socket and gateway.service, with a tool of systemd in place of its main process."""
    unit = (clone / "deploy/gateway.service").read_text()
    places = {"/srv/gateway/.venv": str(find_venv(clone)), "/srv/gateway": str(clone)}
    places |= {"/var/lib/gateway": str(tmp_path / "state"), "/run/gateway": str(tmp_path / "run")}
    for installed, here in places.items():
        unit = unit.replace(installed, here)
    for name in ("state", "run"):
        (tmp_path / name).mkdir()
    values = {name: re.findall(rf"^{name}=(.*)$", unit, re.MULTILINE) for name in ("Environment", "ExecStart")}
    environment = [*" ".join(values["Environment"]).split(), *(f"{name}={value}" for name, value in settings.items())]
    (listens,) = re.findall(r"^ListenStream=(.*):8000$", (clone / "deploy/gateway.socket").read_text(), re.MULTILINE)
    port, log = free_port(), tmp_path / "log"
    command = ["systemd-socket-activate", f"--listen={listens}:{port}", *(f"--setenv={one}" for one in environment)]
    code, said = run_to_end(["bin/gateway", "db", "upgrade"], clone, in_venv(clone) | settings, as_root=True)
    assert code == 0, said
    with started([*command, *values["ExecStart"][0].split()], clone, clean_environment(), log) as service:
        assert ask(port).startswith("[sandbox] Hello!"), log.read_text()
        workers = psutil.Process(service.pid).children()
    # RESTART_HANDOVER leaves the workers to the next start, and systemd would not wait for that either.
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.terminate()
    psutil.wait_procs(workers, 60)


def test_what_the_image_holds_is_enough_and_is_not_written_to(
    clone: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    """Follows the Dockerfile, except for the base image: its files, environment, and commands."""
    image = read_image(clone)
    place = tmp_path / "srv"
    image.copy_to(place)
    (place / ".venv").symlink_to(find_venv(clone))
    state = {
        name: value.replace("/var/lib/gateway", str(tmp_path / "state")) for name, value in image.environment.items()
    }
    (tmp_path / "state").mkdir()
    port = free_port()
    state["PATH"] = f"{place / '.venv/bin'}:{clean_environment()['PATH']}"
    environment = clean_environment() | settings | state | {"PORT": str(port)}
    before = sorted(str(file) for file in place.rglob("*"))
    compose = yaml.safe_load((clone / "compose.yaml").read_text())
    code, said = run_to_end(compose["services"]["migration"]["command"], place, environment, as_root=True)
    assert code == 0, said
    log = tmp_path / "log"
    with started(image.command, place, environment, log):
        assert ask(port).startswith("[sandbox] Hello!"), log.read_text()
        code, said = run_to_end(image.health_command, place, environment, as_root=True)
        assert code == 0, said
        docs = subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/docs/deploy"], capture_output=True, text=True)
        assert "docker compose up" in docs.stdout
    assert sorted(str(file) for file in place.rglob("*")) == before
    code, said = run_to_end(image.health_command, place, environment, as_root=True)
    assert code != 0
