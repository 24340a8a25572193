"""Database errors under one name, and a limit on the time that a caller waits for the database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
from gevent import monkey
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

# The base class of every error that SQLAlchemy raises if the database is unavailable or slow, or refuses a statement.
# Services catch it under this name, because only this package imports SQLAlchemy.
DatabaseError = SQLAlchemyError

# Messages of PostgreSQL, PgBouncer and libpq about an address that works only after someone has corrected it. Only the
# text identifies them: a refused connection has no SQLSTATE.
_REFUSAL = re.compile(
    r"(password|peer|ident|sasl) authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects"
    r"|(database|role|certificate file|private key file) \"[^\"]*\" does not exist|permission denied for database"
    r"|no such (database|user)|invalid (dsn|connection option|port number|integer value|\w+ value)"
    r"|does not support SSL",
    re.IGNORECASE,
)

# Messages of poolers about options that they cannot keep for one client: PgBouncer, by its version.
_POOLER = re.compile(r"unsupported startup parameter", re.IGNORECASE)
_UNKNOWN_HOST = re.compile(r"could not translate host name|name resolution|not known", re.IGNORECASE)
_NOBODY_LISTENS = re.compile(r"connection refused|no such file or directory", re.IGNORECASE)

_MAX_LINE_CHARACTERS = 300


class DatabaseTimeout(DatabaseError):
    """The database did not answer within the time limit. The statement may still be executed."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Interrupts database work in the `with` block after `seconds`.

    A frozen server keeps its connections open, so only a timeout in this process ends the wait, and only gevent can
    interrupt it. The connection that was waited on is closed, which frees its slot in the pool. Without gevent's
    patches, as in the commands of `flask`, this sets no limit, and libpq's connect_timeout is the only one.

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
    """Returns the message of PostgreSQL or the driver, in one line of at most 300 characters, for a log or an answer.

    SQLAlchemy's own text repeats the whole statement.
    """
    return _find_line(error)[:_MAX_LINE_CHARACTERS]


def _find_line(error: Exception) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().split("\n")
    # libpq tries each address of a host, so the answering server's line may not be the first.
    return next((line for line in lines if "FATAL" in line), lines[0])


def describe_refusal(error: Exception, setting: str = "DATABASE_URL") -> str | None:
    """Returns why an address cannot work, in one sentence; None if the database may just be unavailable.

    Args:
        error: the exception of SQLAlchemy or the driver.
        setting: the setting that has the address.
    """
    text = _find_line(error).rstrip(".")
    if isinstance(error, DBAPIError) and error.statement is not None:
        return None
    if _POOLER.search(text):
        what = "It must lead" if setting != "DATABASE_URL" else "Set DATABASE_DIRECT_URL too, which leads"
        return f"{setting} leads to a pooler such as PgBouncer ({text}). {what} to PostgreSQL itself: docs/hosts.md."
    if not _REFUSAL.search(text):
        return None
    return (
        f"the database refuses {setting} ({text}). Correct the user, the password and the name of the database in it,"
        " or create that database."
    )


def describe_outage(error: Exception, setting: str = "DATABASE_URL") -> str:
    """Returns two sentences: that the database does not answer, and the remedy.

    Args:
        error: the exception of SQLAlchemy or the driver.
        setting: the setting that has the address.
    """
    text = _find_line(error).rstrip(".")
    if _UNKNOWN_HOST.search(text):
        remedy = f"Correct the host in {setting}, or this machine's DNS."
    elif _NOBODY_LISTENS.search(text):
        remedy = f"Start PostgreSQL, or correct the host and the port in {setting}."
    else:
        remedy = f"Look whether PostgreSQL runs and whether a firewall is between, or correct {setting}."
    return f"the database does not answer: {text}. {remedy}"
