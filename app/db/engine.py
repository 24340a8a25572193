"""The connection pool of a process.

gunicorn.conf.py gives psycopg2 a wait callback for gevent; this code does not need gevent itself. The callback has two
effects: libpq's connect_timeout does not work under it, and no server setting ends a wait for a frozen server. Callers
that must not wait long use `time_limit` of app/db/errors.py. When that interrupts a wait, psycopg2 closes the
connection and SQLAlchemy drops it from the pool.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection as Connection
from sqlalchemy import Engine, create_engine, event, make_url

from app.config import PASSWORD_NAMES, SettingsError
from app.database_session import OPTIONS, SESSION, VANISHED_SERVER
from app.db.connection_check import add_connection_check
from app.db.errors import time_limit
from app.runtime import Component, Runtime, get_component

# One for the shipper, one for retention, two for statistics, and one that `/ready` and the confirmation of known keys
# use for milliseconds. PostgreSQL runs a process for each connection and small hosted plans allow 20, so three workers
# and a release phase fit, including the connection below.
POOL_SIZE = 5
# Anyone can send unknown keys, so their lookups have a connection of their own and no other.
LOOKUP_POOL_SIZE = 1
# A worker draws from limits in one thread, and requests wait for it; a worker without limits never opens this one.
LEASE_POOL_SIZE = 1
# For requests with an Idempotency-Key, each of which uses one for some milliseconds before and after it is served. A
# worker without such requests never opens one.
ANSWER_POOL_SIZE = 2
# All five are in use only if the database is slow or unavailable. Requests should then fail soon.
POOL_TIMEOUT_S = 2.0
# Below the half hour or more after which load balancers and firewalls forget an idle connection.
POOL_RECYCLE_S = 900

# The most connections that may read statistics and activity at once. Further readers wait, so that one connection stays
# free for `/ready`, besides those of the shipper and of retention.
MAX_READERS = 2
# The total time limit of a reader, including the wait for its turn. The slowest queries take some hundred milliseconds;
# if the server is frozen, the caller should get an error soon.
READ_TIME_LIMIT_S = 4.0

# The time limit for the changes of one request, in seconds: some statements, and a wait for others on the same rows.
WRITE_TIME_LIMIT_S = 6.0

# psycopg2 passes these to libpq. A database that takes longer than 2 s to connect is not usable.
CONNECT_ARGS: dict[str, object] = VANISHED_SERVER | {"connect_timeout": 2, "application_name": "gateway"}

# A pooler in transaction mode accepts no options when a connection starts, and gives each transaction another session.
# So each statement begins with these. PostgreSQL executes statements sent together as one transaction, and SET LOCAL
# ends with it, so this needs no extra round trip.
_PREFIX = "".join(f"SET LOCAL {name} = '{value}'; " for name, value in SESSION.items())


class Database(Component):
    """The connection pool for DATABASE_URL, with a limit on concurrent readers.

    Attributes:
        engine: the SQLAlchemy engine; it connects when a connection is needed.
        lookup_engine: another engine, for lookups of unknown keys.
        lease_engine: another engine, for draws from limits. It has one connection, which only the drawing thread may
            use: a greenlet that takes it again and again keeps the others waiting until their draws fail.
        answer_engine: another engine, for the kept answers of repeated requests.
        direct_engine: for statements that need their own session, such as DETACH CONCURRENTLY; bypasses a pooler.

    Raises:
        SettingsError: DATABASE_URL is not set.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        url = self.settings.database_url
        if url is None:
            raise SettingsError("DATABASE_URL is not set. Set it to the address of a PostgreSQL, or start `make run`.")
        direct_url = self.settings.database_direct_url
        pooled = direct_url is not None
        self.engine: Engine = create_engine_for(url, pooled=pooled)
        self.lookup_engine: Engine = create_engine_for(url, LOOKUP_POOL_SIZE, pooled=pooled)
        self.lease_engine: Engine = create_engine_for(url, LEASE_POOL_SIZE, pooled=pooled)
        self.answer_engine: Engine = create_engine_for(url, ANSWER_POOL_SIZE, pooled=pooled)
        self.direct_engine: Engine = self.engine if direct_url is None else create_engine_for(direct_url, 1)
        self._readers = threading.BoundedSemaphore(MAX_READERS)

    @contextmanager
    def read_connection(self) -> Iterator[Connection]:
        """Yields a connection as `app.db.read_connection` does."""
        with time_limit(READ_TIME_LIMIT_S), self._readers, self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def poll_connection(self) -> Iterator[Connection]:
        """Yields a connection for single statements. Without a transaction, each of them is one round trip."""
        with self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    def close(self) -> None:
        """Closes the idle connections."""
        self._dispose(close=True)

    def abandon(self) -> None:
        """Drops the parent process's connections without closing them, which would end its sessions too."""
        self._dispose(close=False)

    def _dispose(self, *, close: bool) -> None:
        engines = (self.engine, self.lookup_engine, self.lease_engine, self.answer_engine, self.direct_engine)
        for engine in engines:
            engine.dispose(close=close)


def create_engine_for(url: str, pool_size: int = POOL_SIZE, *, pooled: bool = False) -> Engine:
    """Returns a new engine with the gateway's pool and limits.

    Args:
        url: the address; it must name the driver psycopg2.
        pool_size: the most connections.
        pooled: whether `url` leads to a pooler in transaction mode, such as PgBouncer.
    """
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=POOL_RECYCLE_S,
        # The most recently used connection is reused first: after a burst the others stay idle and are recycled.
        pool_use_lifo=True,
        # Error texts end up in logs, and parameters contain digests of keys and rows of activity.
        hide_parameters=True,
        connect_args=CONNECT_ARGS if pooled else CONNECT_ARGS | {"options": OPTIONS},
    )
    # Otherwise a restart of the server would cause one error for each pooled connection.
    add_connection_check(engine)
    engine.dialect.reset_isolation_level = _reset_isolation_level  # type: ignore[method-assign, assignment]
    if pooled:
        event.listen(engine, "before_cursor_execute", _add_prefix, retval=True)
    return engine


def _reset_isolation_level(connection: Any) -> None:
    # Resets to the server's default and not to READ COMMITTED, which SQLAlchemy would set: psycopg2 sends a SET
    # whenever a connection with a level of its own enters or leaves autocommit.
    connection.set_isolation_level(None)


def _add_prefix(_connection: object, _cursor: object, statement: str, parameters: object, *_: object) -> object:
    # VACUUM of the table of deltas (fold.py) must not run in a transaction, so nothing may be sent with it.
    return statement if statement.startswith("VACUUM") else _PREFIX + statement, parameters


def identify_database(url: str) -> str:
    """Returns the SHA-256 of an address without its passwords, in hexadecimal; files identify their database by it."""
    address = make_url(url)
    passwords = [name for name in address.query if name.lower() in PASSWORD_NAMES]
    plain = address.set(password=None).difference_update_query(passwords)
    return hashlib.sha256(plain.render_as_string().encode()).hexdigest()


def get_engine() -> Engine:
    """Returns the engine of this process for DATABASE_URL.

    Raises:
        SettingsError: DATABASE_URL is not set.
    """
    return get_component(Database).engine


@contextmanager
def read_connection() -> Iterator[Connection]:
    """Yields a connection for the reads of one request, which share a snapshot and READ_TIME_LIMIT_S in total.

    Raises:
        DatabaseError: the database is unavailable or did not answer in time.
        SettingsError: DATABASE_URL is not set.
    """
    with get_component(Database).read_connection() as connection:
        yield connection


@contextmanager
def write_connection() -> Iterator[Connection]:
    """Yields a connection for the changes of one request, which form one transaction, committed at the end.

    Raises:
        DatabaseError: the database is unavailable or did not answer in time.
        SettingsError: DATABASE_URL is not set.
    """
    with time_limit(WRITE_TIME_LIMIT_S), get_engine().begin() as connection:
        yield connection
