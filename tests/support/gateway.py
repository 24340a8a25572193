"""Starts the real gateway, gunicorn with its own configuration and worker class, as a subprocess of a test."""

from __future__ import annotations

import functools
import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.dev import Child, start_child
from tests.support.waiting import PATIENCE_S, wait_until

# The operator's key of a gateway, unless its settings name another.
GATEWAY_KEY = "gw_test_operator_key"
# Between choosing a free port and binding it another process may take it; more than a few in a row is a bug.
_PORT_TRIES = 5
# Booting takes about a second; several at once on a busy machine take longer.
_BOOT_TIMEOUT_S = 60.0
# Above GRACEFUL_TIMEOUT's default, after which gunicorn kills its workers.
_STOP_TIMEOUT_S = 40.0


class GatewayDidNotBoot(Exception):
    """gunicorn ended before it served `/health`; the message is its output, `code` its exit code."""

    def __init__(self, log: str, code: int | None) -> None:
        super().__init__(log)
        self.code = code


class Gateway:
    """One running gateway; made by `start_gateway`.

    Attributes:
        url: where it listens, such as `http://127.0.0.1:4711`; `host` and `port` are parts of it.
        key: its GATEWAY_API_KEY.
        headers: the Authorization header with that key.
        root: the copy of the project that it runs from.
    """

    def __init__(self, child: Child, port: int, key: str, root: Path, log: Path, host: str = "127.0.0.1") -> None:
        self.url = f"http://{host}:{port}"
        self.host = host
        self.port = port
        self.key = key
        self.headers = {"Authorization": f"Bearer {key}"}
        self.root = root
        self._child = child
        self._log = log

    @property
    def place(self) -> Path:
        """The directory of its log and, unless its settings name another one, of its journal."""
        return self._log.parent

    @property
    def pid(self) -> int:
        """The process id of gunicorn's arbiter."""
        return self._child.process.pid

    def worker_pids(self) -> list[int]:
        """Returns the process ids of the workers that live now."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children() if _is_alive(child)]
        except psutil.NoSuchProcess:
            return []

    def log(self) -> str:
        """Returns the gateway's standard output and error so far."""
        return self._log.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        """Sends a signal to the arbiter, SIGHUP for a reload for instance."""
        self._child.process.send_signal(number)

    def reload(self) -> None:
        """Sends SIGHUP, and returns once all workers are new."""
        before = set(self.worker_pids())
        self.send_signal(signal.SIGHUP)
        wait_until(
            lambda: len(now := set(self.worker_pids())) == len(before) and not now & before, what="the new workers"
        )

    def stop(self) -> int:
        """Stops the gateway with SIGTERM and returns its exit code.

        Raises:
            AssertionError: the arbiter or a worker still ran after _STOP_TIMEOUT_S.
        """
        workers = self.worker_pids()
        if self._child.process.poll() is None:
            self.send_signal(signal.SIGTERM)
        try:
            code = self._child.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"gunicorn did not stop:\n{self.log()}") from None
        left = [pid for pid in workers if psutil.pid_exists(pid) and _is_alive(psutil.Process(pid))]
        assert not left, f"workers {left} outlived their arbiter:\n{self.log()}"
        return code

    def kill(self) -> None:
        """Ends the arbiter and all workers with SIGKILL at once."""
        workers = self.worker_pids()
        self._child.process.kill()
        for pid in workers:
            if psutil.pid_exists(pid):
                os.kill(pid, signal.SIGKILL)
        self._child.process.wait(PATIENCE_S)


def start_gateway(
    settings: Mapping[str, str],
    *,
    root: Path,
    log: Path,
    workers: int = 1,
    prefix: Sequence[str] = (),
    host: str = "127.0.0.1",
) -> Gateway:
    """Runs `gunicorn wsgi:app` in `root` on a free port and returns once `/health` answers.

    Args:
        settings: the environment, in addition to `clean_environment`; PORT and WEB_CONCURRENCY are added.
        root: a copy of the project, see `copy_tree`: there is no `.env.local` in it.
        log: the file for the output.
        prefix: the beginning of the command, such as `nice`.
        host: the address at which it is reached.

    Raises:
        GatewayDidNotBoot: gunicorn ended before that.
    """
    for _ in range(_PORT_TRIES):
        port = free_port()
        key = settings.get("GATEWAY_API_KEY", GATEWAY_KEY)
        fixed = {"PORT": str(port), "WEB_CONCURRENCY": str(workers), "GATEWAY_API_KEY": key}
        child = start_child(
            "gunicorn",
            [*prefix, sys.executable, "-m", "gunicorn", "wsgi:app"],
            environment=clean_environment() | dict(settings) | fixed,
            output=log,
            cwd=root,
        )
        gateway = Gateway(child, port, key, root, log, host)
        try:
            wait_until(functools.partial(_is_healthy, gateway), _BOOT_TIMEOUT_S, "the gateway's /health")
            return gateway
        except GatewayDidNotBoot as error:
            if "in use" not in str(error):
                raise
        except BaseException:
            gateway.kill()
            raise
    raise AssertionError(f"{_PORT_TRIES} free ports in a row were taken by others")


@contextmanager
def running_gateway(root: Path, place: Path, settings: Mapping[str, str], workers: int = 1) -> Iterator[Gateway]:
    """A gateway for the length of a `with` block; its log is `place / "log"`."""
    gateway = start_gateway(settings, root=root, log=place / "log", workers=workers)
    try:
        yield gateway
    finally:
        gateway.stop()


def base_settings(place: Path, database_url: str) -> dict[str, str]:
    """Returns the settings that every gateway of a test has: its database, its key, and a journal in `place`."""
    return {
        "DATABASE_URL": database_url,
        "GATEWAY_API_KEY": GATEWAY_KEY,
        "JOURNAL_DIR": str(place / "journal"),
        # Tests write rows with fixed dates, which retention would drop as too old.
        "RETENTION_DAYS": "36500",
        # Tests share one key and send more requests that are refused than any client does.
        "MAX_REFUSALS_PER_SECOND": "1000000",
    }


def clean_environment() -> dict[str, str]:
    """Returns the environment variables that any process needs, without settings of the gateway.

    The only exception is COMPILED_EVENTS: `COMPILED_EVENTS=false make test` tests the Python path for events even if
    the compiled one is built.
    """
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "COMPILED_EVENTS")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_healthy(gateway: Gateway) -> bool:
    if (code := gateway._child.process.poll()) is not None:
        raise GatewayDidNotBoot(gateway.log(), code)
    connection = http.client.HTTPConnection(gateway.host, gateway.port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
