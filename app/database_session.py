"""Options of each connection to PostgreSQL, and the forms of its address. The checks before the start use them too,
without SQLAlchemy.
"""

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


def split_hosts(hosts: str) -> list[tuple[str, str]]:
    """Returns (host, port or "") for each of the hosts in `a:5432,[::1]:5432`."""
    # An IPv6 address is in brackets, after which only the port has a colon.
    ends = [host.rpartition("]") for host in hosts.split(",")]
    return [(left + mark + right.partition(":")[0], right.partition(":")[2]) for left, mark, right in ends]


def move_hosts(rest: str) -> str:
    """Moves hosts with a port each into parameters: libpq takes both, and SQLAlchemy only these."""
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
