"""The connection pool of this process, and whether the database answers.

Nothing here knows gevent: gunicorn.conf.py gives psycopg2 its wait callback, and this stays plain code. Two things
follow from that callback. libpq's connect_timeout does not act under it, and no setting of the server ends a wait
for a server that is frozen; whoever must not wait gives a limit from outside (`bounded` in app/db/errors.py).
psycopg2 closes a connection whose wait was broken off, and SQLAlchemy then drops it from the pool.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, text

from app.config import SettingsError
from app.db.errors import DatabaseError, bounded
from app.runtime import get_settings

# One for the shipper, one for maintenance, three for key lookups and statistics. PostgreSQL pays a process for
# each connection and small hosted plans allow 20, so four workers and a release phase fit.
POOL_SIZE = 5
# All five are in use only when the database is slow or away; a request should hear that soon.
POOL_TIMEOUT_S = 2.0
# Below the half hour and more after which load balancers and firewalls forget an idle connection.
POOL_RECYCLE_S = 900

# How many connections callers who read statistics and activity may hold at a time: however many ask, one is left for
# key lookups besides those of the shipper and of maintenance. More readers wait for their turn.
READERS = 2
# What a caller waits for an answer, turn included. The slowest ones take some hundred milliseconds, and whoever asks
# a server that is frozen should hear that soon.
READ_PATIENCE_S = 4.0

# psycopg2 passes these to libpq. A database that takes longer to greet is not usable; a dead host is noticed after
# 10 + 3 × 5 s without an answer to a keepalive, or 10 s without an acknowledgement of something sent.
CONNECT_ARGS: dict[str, object] = {
    "connect_timeout": 2,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "application_name": "gateway",
    # A statement of ours takes milliseconds, so 10 s means that something is wrong. Waiting for a lock takes half
    # of that at most, so that the error can name the lock. A transaction that stands idle longer than a page of an
    # export takes has lost its worker. UTC keeps every date that the server prints the same everywhere.
    "options": "-c statement_timeout=10s -c lock_timeout=5s -c idle_in_transaction_session_timeout=15s -c timezone=UTC",
}

_lock = threading.Lock()
_readers = threading.BoundedSemaphore(READERS)
_engine: Engine | None = None
_made_for: tuple[int, str] | None = None


def get_engine() -> Engine:
    """Returns the engine of this process for DATABASE_URL, made at the first call; connections open when used.

    A fork gets an engine of its own, because two processes on one connection read each other's answers.

    Raises:
        SettingsError: DATABASE_URL is not set.
    """
    global _engine, _made_for
    url = get_settings().database_url
    if url is None:
        raise SettingsError("DATABASE_URL is not set; it is the address of the PostgreSQL database.")
    with _lock:
        if _engine is None or _made_for != (os.getpid(), url):
            _forget_engine()
            _engine, _made_for = create_engine_for(url), (os.getpid(), url)
        return _engine


def create_engine_for(url: str) -> Engine:
    """Returns a new engine with the gateway's pool and limits; `url` must name the driver psycopg2."""
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=POOL_RECYCLE_S,
        # One round trip when a connection is taken, against an error for each that a restarted server left behind.
        pool_pre_ping=True,
        # The last one used is the first one given: the others can go idle and be recycled after a burst.
        pool_use_lifo=True,
        # Error texts end up in logs, and parameters are digests of keys and rows of activity.
        hide_parameters=True,
        connect_args=CONNECT_ARGS,
    )


def dispose_engine() -> None:
    """Closes this process's idle connections; the next `get_engine` starts anew."""
    global _engine, _made_for
    with _lock:
        _forget_engine()
        _engine, _made_for = None, None


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection for a caller who waits: one snapshot for all that is read, within READ_PATIENCE_S seconds.

    Raises:
        DatabaseError: the database is away, or did not answer in time.
        SettingsError: DATABASE_URL is not set.
    """
    with bounded(READ_PATIENCE_S), _readers, get_engine().connect() as connection:
        yield connection.execution_options(isolation_level="REPEATABLE READ")


def ping(timeout_s: float = 1.0, engine: Engine | None = None) -> bool:
    """Returns whether the database answers a query within `timeout_s` seconds, a bound that holds under gevent.

    Raises:
        SettingsError: no engine is given and DATABASE_URL is not set.
    """
    target = get_engine() if engine is None else engine
    try:
        with bounded(timeout_s), target.connect() as connection:
            connection.execute(text("SELECT 1"))
        return True
    except DatabaseError:
        return False


def _forget_engine() -> None:
    if _engine is not None and _made_for is not None:
        # In a fork the sockets are the parent's too: closing them properly would say goodbye in its name.
        _engine.dispose(close=_made_for[0] == os.getpid())
