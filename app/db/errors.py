"""How the database fails, as the services see it: one name for its errors, and the bound on waiting for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey
from sqlalchemy.exc import SQLAlchemyError

# Whatever an absent, slow or refusing database makes SQLAlchemy raise. It has a name here because only this package
# knows SQLAlchemy.
DatabaseError = SQLAlchemyError


class DatabaseSilent(DatabaseError):
    """The database did not answer in the time it was given; what was asked of it may still happen."""


@contextmanager
def bounded(patience_s: float) -> Iterator[None]:
    """Bounds what is done inside to `patience_s` seconds.

    Only leaving the wait from outside helps against a server that is frozen with its connections open, and only
    gevent can do that. The connection that was waited on is closed, which gives its place in the pool back. Where
    gevent has not patched sockets, as in the commands of `flask`, libpq's connect_timeout is the only bound.

    Raises:
        DatabaseSilent: the time is over.
    """
    if not monkey.is_module_patched("socket"):
        yield
        return
    with gevent.Timeout(patience_s) as timeout:
        try:
            yield
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            raise DatabaseSilent(f"the database did not answer within {patience_s:g} s") from None


def describe_error(error: Exception) -> str:
    """Returns what PostgreSQL or the driver said, in one line; SQLAlchemy's own text repeats the whole statement."""
    return str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
