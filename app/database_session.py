"""What each connection to PostgreSQL begins with. The checks before the start use it too, without SQLAlchemy."""

from __future__ import annotations

# Our statements take milliseconds, so 10 s means that something is wrong. The lock timeout is half of that, so that the
# error can name the lock. A transaction that is idle for longer than a page of an export takes has lost its worker. UTC
# makes dates look the same in every session.
SESSION = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}

# A pooler in transaction mode takes no options when a connection starts.
OPTIONS = " ".join(f"-c {name}={value}" for name, value in SESSION.items())


def get_libpq_address(address: str) -> str:
    """Returns a database's address as libpq wants it; settings have it as SQLAlchemy does, with the driver."""
    return address.replace("postgresql+psycopg2://", "postgresql://", 1)
