"""Finds dead connections in the pool without asking the server, if they were in use a moment ago.

SQLAlchemy's own check asks the server at each use, which is half of the time of a short statement. A server that was
stopped or killed has closed its connections, and the kernel knows that without a round trip. A connection that ends
unnoticed, for instance because a firewall has forgotten it, has been idle for long; then the server is asked.
"""

from __future__ import annotations

import select
import time
from functools import cache
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import InvalidatePoolError

# A connection that was idle for longer is checked by asking the server. Workers poll every two seconds.
TRUSTED_S = 5.0

_RETURNED = "returned_s"


def add_connection_check(engine: Engine) -> None:
    """Makes an engine check each connection that it takes from its pool, and replace dead ones."""

    def check(connection: Any, record: Any, _proxy: object) -> None:
        returned_s = record.info.get(_RETURNED)
        if returned_s is None:
            return  # A new connection needs no check.
        if time.monotonic() - returned_s < TRUSTED_S and _is_open(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # Makes SQLAlchemy replace this connection and all others created before this moment.
            raise InvalidatePoolError(str(error)) from error

    event.listen(engine, "checkout", check)
    event.listen(engine, "checkin", _note_return)


def _note_return(_connection: object, record: Any) -> None:
    record.info[_RETURNED] = time.monotonic()


def _is_open(connection: Any) -> bool:
    """Returns whether nothing has arrived since the last answer: neither the end of the connection nor a message."""
    if connection.closed:
        return False
    poll = _get_poll_class()()
    poll.register(connection.fileno(), select.POLLIN)
    return not poll.poll(0)


@cache
def _get_poll_class() -> Any:
    # gevent's poll() is made for waiting and costs 50 µs; the original is one system call that does not wait.
    from gevent.monkey import get_original

    return get_original("select", "poll")
