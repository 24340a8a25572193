"""Errors of the database under one name, and a limit on the time that a caller waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey
from sqlalchemy.exc import SQLAlchemyError

# Base class of everything that SQLAlchemy raises when the database is unavailable or slow, or refuses a statement.
# Services catch it under this name, because only this package imports SQLAlchemy.
DatabaseError = SQLAlchemyError


class DatabaseTimeout(DatabaseError):
    """The database did not answer within the time limit. The statement may still be carried out."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupts database work in the `with` block after `seconds`.

    A server that is frozen keeps its connections open, so only a timeout in this process ends the wait, and only gevent
    can interrupt it. The connection that was waited on is closed, which frees its place in the pool. Without gevent's
    patches, as in the commands of `flask`, this sets no limit and libpq's connect_timeout is the only one.

    Raises:
        DatabaseTimeout: the work took longer.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    with gevent.Timeout(seconds) as timeout:
        try:
            yield
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            raise DatabaseTimeout(f"the database did not answer within {seconds:g} s") from None


def describe_error(error: Exception) -> str:
    """Returns what PostgreSQL or the driver said, in one line; SQLAlchemy's own text repeats the whole statement."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
