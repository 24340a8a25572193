"""PgBouncer in transaction mode, in front of the server of the tests."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

from app.dev import start_child
from tests.support.database_proxy import running_database_proxy
from tests.support.waiting import wait_until

_PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
# Fewer than a worker's seven connections, so that transactions share sessions.
_SESSIONS = 3

_CONFIGURATION = """
[databases]
* = host={server} port=5432 user=postgres

[pgbouncer]
pool_mode = transaction
default_pool_size = {sessions}
listen_addr =
unix_socket_dir = {place}
listen_port = 6432
auth_type = any
logfile = {place}/log
ignore_startup_parameters = {ignored}
"""


@contextmanager
def running_pooler(url: str, *, ignored: str = "") -> Iterator[str]:
    """Yields the address of a database through PgBouncer; skips the test if that is not installed.

    Args:
        url: the direct address.
        ignored: startup parameters of clients that it ignores, such as `options`.
    """
    if _PROGRAM is None:
        pytest.skip("pgbouncer is not on the PATH; on Debian and Ubuntu: apt-get install pgbouncer")
    # PgBouncer refuses to run as root, and the server trusts only this process's user, so a proxy connects for it.
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with (
        running_database_proxy(url) as proxy,
        tempfile.TemporaryDirectory(prefix="pooler-", ignore_cleanup_errors=True) as directory,
    ):
        proxy.open_to_all()
        place = Path(directory)
        place.chmod(0o777)
        server = proxy.url.partition("host=")[2].replace("%2F", "/")
        file = place / "pgbouncer.ini"
        file.write_text(_CONFIGURATION.format(server=server, place=place, sessions=_SESSIONS, ignored=ignored))
        child = start_child("pgbouncer", [_PROGRAM, *user, str(file)], output=place / "output")
        try:
            wait_until(lambda: _accepts(place / ".s.PGSQL.6432") or child.raise_if_ended(), what="pgbouncer")
            yield f"{url.partition('?')[0]}?host={quote(directory, safe='')}&port=6432"
        finally:
            child.stop()


def _accepts(path: Path) -> bool:
    """Returns whether a program listens on a socket; its file exists a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0
