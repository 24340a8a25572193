"""The connection pool survives restarts and freezes of the server, forks, and interrupted waits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from subprocess import PIPE

import pytest
from sqlalchemy import Connection, Engine, text

from app.config import ROOT, SettingsError, load_settings
from app.db import Database, DatabaseError, connection_check, create_engine_for, get_engine, time_limit
from app.db.engine import POOL_SIZE
from app.runtime import get_component, use_settings
from tests.support.database_proxy import running_database_proxy
from tests.support.postgres import Postgres


@pytest.fixture
def configured(database_url: str) -> Iterator[None]:
    """Points this process's settings at the test's database."""
    use_settings(load_settings({"DATABASE_URL": database_url}))
    yield
    use_settings(None)


def test_a_process_has_one_engine(configured: None) -> None:
    assert get_engine() is get_engine()


def test_without_an_address_the_error_names_the_setting() -> None:
    use_settings(load_settings({}))
    try:
        with pytest.raises(SettingsError, match="DATABASE_URL"):
            get_engine()
    finally:
        use_settings(None)


def test_a_forked_process_gets_connections_of_its_own(configured: None) -> None:
    parent_backend = _backend(get_engine())
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(_backend(get_engine())).encode())
        finally:
            # Without this, the child would go on with the other tests.
            os._exit(0)
    os.waitpid(child, 0)
    child_backend = int(os.read(read, 20))
    assert child_backend != parent_backend
    # The child has not closed the parent's connection.
    assert _backend(get_engine()) == parent_backend


def test_every_session_has_the_limits(engine: Engine) -> None:
    names = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "TimeZone"]
    with engine.connect() as connection:
        values = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
    assert values == ["10s", "5s", "15s", "UTC"]


def test_the_pool_opens_no_more_connections_than_its_size(engine: Engine) -> None:
    held = [engine.connect() for _ in range(POOL_SIZE)]
    with pytest.raises(Exception, match="QueuePool limit"):
        engine.connect()
    for connection in held:
        connection.close()


@pytest.mark.parametrize(("end", "is_asked_meanwhile"), [("stop", True), ("kill", False)])
def test_connections_of_a_restarted_server_are_replaced_without_an_error(
    victim: Postgres, victim_engine: Engine, end: str, is_asked_meanwhile: bool
) -> None:
    before = _backend(victim_engine)
    getattr(victim, end)()
    if is_asked_meanwhile:
        with pytest.raises(DatabaseError), time_limit(5):
            _backend(victim_engine)
    victim.start()
    assert _backend(victim_engine) != before


def test_a_single_statement_is_one_message_until_the_connection_was_idle_or_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_database_proxy(database_url) as proxy:
        use_settings(load_settings({"DATABASE_URL": proxy.url}))
        database = get_component(Database)

        def ask(connections: Callable[[], AbstractContextManager[Connection]]) -> tuple[int, int]:
            """Returns the number of messages that a statement took, and the backend that answered it."""
            before = proxy.messages
            with connections() as connection:
                backend = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            return proxy.messages - before, backend

        _, first = ask(database.poll_connection)
        # An isolation level leaves no state behind that would cost a later statement a message.
        in_transaction = ask(database.read_connection)
        assert [in_transaction, ask(database.poll_connection), ask(database.poll_connection)] == [
            (3, first),
            (1, first),
            (1, first),
        ]
        monkeypatch.setattr(connection_check, "TRUSTED_S", 0.0)
        assert ask(database.poll_connection) == (2, first)
        monkeypatch.undo()
        with database.lookup_engine.connect() as connection:
            connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": first})
        assert ask(database.poll_connection)[1] != first
        use_settings(None)


QUERIES_UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
from psycogreen.gevent import patch_psycopg; patch_psycopg()
import sys
from sqlalchemy import text
from app.db import create_engine_for, time_limit
from app.db.errors import DatabaseTimeout

engine = create_engine_for(sys.argv[1])
def answers(seconds):
    try:
        with time_limit(seconds), engine.connect() as connection:
            return connection.execute(text("SELECT true")).scalar()
    except DatabaseTimeout:
        return False
for line in sys.stdin:
    print([answers(float(line)) for _ in range(8)], engine.pool.checkedout(), flush=True)
"""


def test_queries_to_a_frozen_server_time_out_and_release_their_connections(victim: Postgres) -> None:
    # gevent patches a whole process, so this runs in one of its own.
    command = [sys.executable, "-W", "error", "-c", QUERIES_UNDER_GEVENT, victim.url]
    with subprocess.Popen(command, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        assert process.stdin is not None and process.stdout is not None
        printed = []
        # More queries than the pool has connections: if one kept its connection, others would get none.
        for freeze, limit_s in [(False, 5), (True, 0.1), (False, 5)]:
            (victim.pause if freeze else victim.resume)()
            process.stdin.write(f"{limit_s}\n")
            printed.append(process.stdout.readline().strip())
            victim.resume()
        process.stdin.close()
    assert printed == [f"{[True] * 8} 0", f"{[False] * 8} 0", f"{[True] * 8} 0"]


INTERRUPTED_UNDER_GEVENT = """
from gevent import monkey; monkey.patch_all()
from psycogreen.gevent import patch_psycopg; patch_psycopg()
import gevent, sys
from sqlalchemy import text
from app.db import create_engine_for

engine = create_engine_for(sys.argv[1])
def ask(connection, sql): return connection.execute(text(sql)).scalar()
with engine.connect() as connection: before = ask(connection, "SELECT pg_backend_pid()")
try:
    with gevent.Timeout(0.3), engine.connect() as connection:
        assert ask(connection, "SELECT pg_backend_pid()") == before
        ask(connection, "SELECT pg_sleep(5)")
except gevent.Timeout:
    print("interrupted")
with engine.connect() as connection:
    print("the same" if ask(connection, "SELECT pg_backend_pid()") == before else "another", "connection")
    print(ask(connection, "SELECT 'answers' || '!'"), engine.pool.checkedout())
"""


def test_a_connection_whose_wait_was_interrupted_is_not_used_again(database_url: str) -> None:
    # gevent patches a whole process, so this runs in one of its own.
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED_UNDER_GEVENT, database_url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["interrupted", "another connection", "answers! 1"], done.stderr


def test_errors_show_no_parameters(engine: Engine) -> None:
    with pytest.raises(Exception, match="hidden") as caught, engine.connect() as connection:
        connection.execute(text("SELECT CAST(:secret AS integer) / 0 FROM nothing"), {"secret": "12345678"})
    assert "12345678" not in str(caught.value).replace(str(getattr(caught.value, "orig", "")), "")


def _backend(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


def test_a_url_of_any_accepted_form_names_the_driver(database_url: str) -> None:
    bare = database_url.replace("postgresql+psycopg2://", "postgres://")
    url = load_settings({"DATABASE_URL": bare}).database_url
    assert url == database_url
    engine = create_engine_for(url)
    assert engine.dialect.driver == "psycopg2" and _backend(engine)
    engine.dispose()
