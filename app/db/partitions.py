"""The daily partitions of activity: created some days ahead or on demand, and dropped after RETENTION_DAYS.

There is no DEFAULT partition. With one, PostgreSQL cannot detach another partition without blocking traffic, and its
rows would have to be moved before their day can get a partition. Instead, the insert of a row creates a missing
partition for its day. Dropping a partition does not change the sums in the rollups.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, text

# Three days cover a weekend. Later days get their partitions on demand, which only costs repeating a batch.
DAYS_AHEAD = 3

# "part" in ASCII; with this advisory lock one worker at a time changes partitions.
PARTITION_LOCK = 0x70617274

# Names end with the day, so that the day of a detached table is known too.
_NAME = "activity_p%Y%m%d"
_PATTERN = r"^activity_p\d{8}$"

_SELECT_PARTITIONS = text("""
    SELECT child.relname AS name, link.inhrelid IS NOT NULL AS attached,
        coalesce(link.inhdetachpending, false) AS half_detached
    FROM pg_class AS parent
    JOIN pg_class AS child ON child.relnamespace = parent.relnamespace
    LEFT JOIN pg_inherits AS link ON link.inhrelid = child.oid
    WHERE parent.oid = to_regclass('activity') AND child.relkind = 'r' AND child.relname ~ :pattern
    ORDER BY child.relname""")


def insert_partitions(connection: Connection, days: list[date]) -> list[date]:
    """Creates the missing partitions of these UTC days and returns the days created.

    Attaching a finished table takes a lock that readers and writers of activity do not wait for, unlike
    CREATE TABLE … PARTITION OF. Call this first in a transaction: it waits for other workers that change partitions,
    and those may wait for transactions that have used activity.

    Raises:
        DatabaseError: another worker held the lock for longer than the lock timeout, or the database is unavailable.
    """
    connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": PARTITION_LOCK})
    missing = sorted(set(days) - set(select_partition_days(connection)))
    for day in missing:
        name, next_day = day.strftime(_NAME), day + timedelta(days=1)
        # If a worker died between detaching and dropping, the table still exists and its rows come back.
        connection.exec_driver_sql(f"CREATE TABLE IF NOT EXISTS {name} (LIKE activity INCLUDING ALL)")
        bounds = f"FROM ('{day} 00:00+00') TO ('{next_day} 00:00+00')"
        connection.exec_driver_sql(f"ALTER TABLE activity ATTACH PARTITION {name} FOR VALUES {bounds}")
    return missing


def insert_partitions_ahead(engine: Engine, today: date) -> list[date]:
    """Creates the partitions of `today` (UTC) and of the DAYS_AHEAD days after it; returns the days created."""
    days = [today + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)]
    with engine.begin() as connection:
        return insert_partitions(connection, days)


def select_partition_days(connection: Connection) -> list[date]:
    """Returns the UTC days that have a partition, oldest first."""
    rows = connection.execute(_SELECT_PARTITIONS, {"pattern": _PATTERN})
    return [_day(row.name) for row in rows if row.attached]


def drop_partitions(engine: Engine, before: date) -> Iterator[date]:
    """Drops the partitions of UTC days before `before`, oldest first, and yields each day after its drop.

    No request waits for it: DETACH CONCURRENTLY blocks neither readers nor writers of the other days. If another worker
    is dropping partitions, this call stops. The next call finishes an interrupted drop.

    Raises:
        DatabaseError: the database is unavailable, or a transaction that uses activity outlasted the lock timeout. The
            partition is then detached already, and the next call drops it.
    """
    with _autocommit(engine) as connection:
        for name, attached, half_detached in _droppable(connection, before):
            if not connection.execute(text("SELECT pg_try_advisory_lock(:n)"), {"n": PARTITION_LOCK}).scalar():
                return
            try:
                _drop(connection, name, attached, half_detached)
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:n)"), {"n": PARTITION_LOCK})
            yield _day(name)


@contextmanager
def _autocommit(engine: Engine) -> Iterator[Connection]:
    # DETACH CONCURRENTLY runs two transactions of its own and cannot be part of another.
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


def _droppable(connection: Connection, before: date) -> list[tuple[str, bool, bool]]:
    rows = connection.execute(_SELECT_PARTITIONS, {"pattern": _PATTERN}).all()
    # A detached table, whatever its day, is one whose worker died while dropping it.
    return [
        (row.name, row.attached, row.half_detached)
        for row in rows
        if _day(row.name) < before or row.half_detached or not row.attached
    ]


def _drop(connection: Connection, name: str, attached: bool, half_detached: bool) -> None:
    if attached:
        how = "FINALIZE" if half_detached else "CONCURRENTLY"
        connection.exec_driver_sql(f"ALTER TABLE activity DETACH PARTITION {name} {how}")
    connection.exec_driver_sql(f"DROP TABLE IF EXISTS {name}")


def _day(name: str) -> date:
    return date.fromisoformat(name.removeprefix("activity_p"))
