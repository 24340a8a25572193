"""Options of each connection to PostgreSQL, and the forms of its address. The checks before the start also use them,
without SQLAlchemy.
"""

from __future__ import annotations

# Our statements take milliseconds, so after 10 s something is wrong. The lock timeout is half of that, so that the
# error can name the lock. A transaction that is idle for longer than a page of an export takes has lost its worker. UTC
# makes dates look the same in every session.
SESSION = {
    "statement_timeout": "10s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "timezone": "UTC",
}

# PostgreSQL ends the session of a vanished host, and with it the session's locks, within half a minute. By default it
# would take two hours, in which no other host could migrate, drop old records or fetch a bill.
VANISHED_HOST = {
    "tcp_keepalives_idle": "15s",
    "tcp_keepalives_interval": "5s",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}

# A pooler in transaction mode accepts no options when a connection starts.
OPTIONS = " ".join(f"-c {name}={value}" for name, value in (SESSION | VANISHED_HOST).items())

# libpq's limits on waits for a server that vanished without closing its connections, as when a cable is cut: an idle
# connection ends within 15 seconds, one with unacknowledged data after 10. By default the kernel waits for two hours,
# or for a quarter of an hour.
VANISHED_SERVER: dict[str, object] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def get_libpq_address(address: str) -> str:
    """Returns a database's address in libpq's form; settings have it in SQLAlchemy's, with the driver."""
    return address.replace("postgresql+psycopg2://", "postgresql://", 1)


def split_hosts(hosts: str) -> list[tuple[str, str]]:
    """Returns (host, port or "") for each of the hosts in `a:5432,[::1]:5432`."""
    # An IPv6 address is in brackets; after them, only the port has a colon.
    ends = [host.rpartition("]") for host in hosts.split(",")]
    return [(left + mark + right.partition(":")[0], right.partition(":")[2]) for left, mark, right in ends]


def move_hosts(rest: str) -> str:
    """Moves hosts with their own ports into parameters: libpq accepts both forms, and SQLAlchemy only this one."""
    address, _, query = rest.partition("?")
    authority, _, database = address.partition("/")
    user, at, hosts = authority.rpartition("@")
    pairs = split_hosts(hosts)
    if not any(port for _, port in pairs[:-1]):
        return rest
    names = ",".join(host.strip("[]") for host, _ in pairs)
    ports = ",".join(port or "5432" for _, port in pairs)
    others = f"&{query}" if query else ""
    return f"{user}{at}/{database}?host={names}&port={ports}{others}"
