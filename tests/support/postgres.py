"""A real PostgreSQL server for tests, which can be killed, frozen and started again.

It is the embedded server of `make run` without durability, which tests do not need and which would cost time.
Its files are in memory if there is room, because a run copies and drops two hundred databases of 700 files.
It listens on a Unix socket only. While it is down on purpose, a TCP port could be taken by any other process: the
kernel may give it to a client as its source port, and a client that retries can even connect to itself.
"""

from __future__ import annotations

import atexit
import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.db.schema import upgrade_schema
from app.dev import Child, EmbeddedPostgres

_SETTINGS = {"shared_buffers": "128MB", "max_connections": "100"}
_MEMORY = Path("/dev/shm")
# A run has up to twelve servers, each of which writes some hundred megabytes. A container may have only 64 MB.
_ROOM_BYTES = 6 << 30
# The template of migrated databases.
_MIGRATED = "migrated"


class Postgres(EmbeddedPostgres):
    """One server in one directory; `running_postgres` starts one for a `with` block.

    Args:
        directory: must exist.
        settings: server settings that override those of all tests, such as {"max_connections": "10"}.
    """

    def __init__(self, directory: Path, settings: Mapping[str, str] | None = None) -> None:
        super().__init__(directory, durable=False, settings=_SETTINGS | dict(settings or {}))
        self._has_migrated = self._data.exists()
        guard = Path(__file__).with_name("postgres_guard.py")
        # The guard must outlive this process, so it has its own session, which the terminal's Ctrl-C does not reach.
        self._guard = subprocess.Popen(
            [sys.executable, str(guard), str(self._data)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def url(self) -> str:
        """The address of the database `postgres`."""
        return self.database_url("postgres")

    @property
    def pid(self) -> int | None:
        """The process id of the postmaster, or None while it is down."""
        running = self.child is not None and self.child.process.poll() is None
        return self.child.process.pid if self.child and running else None

    def database_url(self, name: str) -> str:
        """Returns the address of the database `name`, in SQLAlchemy's form."""
        return super().database_url(name).replace("postgresql://", "postgresql+psycopg2://", 1)

    def start(self) -> Child:
        """Starts the server and returns it once it takes connections; after a kill it recovers first."""
        assert self.pid is None, "the server is running"
        return super().start()

    def stop(self) -> None:
        """Stops the server as `pg_ctl stop -m fast` does: sessions are ended, and committed data is kept."""
        self.resume()
        super().stop()

    def kill(self) -> None:
        """Ends every process of the server with SIGKILL, as the kernel's out-of-memory killer would."""
        if self.child is None or self.pid is None:
            return
        processes = self._processes()
        for process in processes:
            _signal(process, signal.SIGKILL)
        self.child.process.wait()
        # A zombie, which init has not reaped yet, holds no resources and need not be waited for.
        while any(_is_alive(process) for process in processes[1:]):
            time.sleep(0.01)

    def pause(self) -> None:
        """Freezes every process of the server with SIGSTOP: connections stay open, but no query returns."""
        for process in self._processes():
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """Lets the processes that `pause` froze go on."""
        for process in self._processes():
            _signal(process, signal.SIGCONT)

    def create_database(self, template: str | None = None) -> str:
        """Creates a database, a copy of `template` if that is given, and returns its address."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        # Copies files, which takes a third of the time of copying blocks through the write-ahead log.
        options = f' TEMPLATE "{template}" STRATEGY file_copy' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{options}')
        return self.database_url(name)

    def create_migrated_database(self) -> str:
        """Creates a database with the current schema and returns its address. A copy takes a tenth of a migration."""
        return self.create_database(self.get_migrated())

    def copy_to(self, data: Path) -> None:
        """Stops the server, and copies its data with a migrated database to `data`, for `running_postgres`."""
        self.get_migrated()
        self.stop()
        _copy(self._data, data)

    def get_migrated(self) -> str:
        """Returns the name of the migrated database, which others are copies of."""
        if not self._has_migrated:
            self.execute(f"CREATE DATABASE {_MIGRATED}")
            upgrade_schema(self.database_url(_MIGRATED))
            self._has_migrated = True
        return _MIGRATED

    def drop_database(self, url: str) -> None:
        """Removes the database of that address; sessions that are still in it are ended."""
        name = url.rpartition("/")[2].partition("?")[0]
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def close(self) -> None:
        """Stops the server and its guard, and removes the directory of the socket; the data directory stays."""
        super().close()
        self._guard.communicate()

    def admit(self, network: str) -> None:
        """Lets every user connect by TCP from a network, such as 198.18.7.0/24, to the `listen_addresses`."""
        with (self._data / "pg_hba.conf").open("a") as access:
            access.write(f"host all all {network} trust\n")
        self.execute("SELECT pg_reload_conf()")

    def _processes(self) -> list[psutil.Process]:
        # The postmaster comes first: once frozen or killed, it cannot start more children.
        if self.pid is None:
            return []
        postmaster = psutil.Process(self.pid)
        return [postmaster, *postmaster.children(recursive=True)]


def make_data(place: Path) -> Path:
    """Returns the initial data directory of servers in `place`; the first process that asks for it makes it.

    Copying it takes a tenth of the time of initializing and migrating another one.
    """
    data, unfinished = place / "data", place / "data.new"
    place.mkdir(exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not data.exists():
            with running_postgres() as server:
                server.copy_to(unfinished)
            unfinished.rename(data)
    return data


@contextmanager
def running_postgres(settings: Mapping[str, str] | None = None, data: Path | None = None) -> Iterator[Postgres]:
    """A server in a temporary directory for the length of a `with` block; see `Postgres` for the settings.

    Args:
        data: the directory that its data is copied from, made by `make_data`.
    """
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ROOM_BYTES
    place = _MEMORY if has_room else None
    with tempfile.TemporaryDirectory(prefix="pg-data-", dir=place, ignore_cleanup_errors=True) as directory:
        if data is not None:
            _copy(data, Path(directory) / "data")
        server = Postgres(Path(directory), settings)
        atexit.register(server.close)
        try:
            server.start()
            yield server
        finally:
            server.close()
            atexit.unregister(server.close)


def _copy(data: Path, destination: Path) -> None:
    # Keeps owners and modes, which PostgreSQL checks; if this is root, it runs under another account.
    subprocess.run(["cp", "-a", data, destination], check=True)


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
