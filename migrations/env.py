"""Runs the migrations: one release at a time, and never waiting long for a lock that traffic holds.

The caller (app/db/schema.py) passes the database's address, the metadata and settings of the connection as attributes
of Alembic's config.
Version files never import the app, because a migration must not change when the code does.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.pool import NullPool

# Any fixed number that no other advisory lock of this database uses; "migrate" in ASCII cut to 32 bits.
MIGRATION_LOCK = 0x6D696772
# How long a second release waits for the first; migrations are meant to take seconds.
WAIT_FOR_OTHER_RELEASE = "60s"
# While DDL waits for its lock, all later statements on the table queue behind it, so it must give up early.
LOCK_TIMEOUT = "5s"
# Long enough for a backfill of the small tables; the large one is changed partition by partition.
STATEMENT_TIMEOUT = "120s"


def run_migrations() -> None:
    url = context.config.attributes["url"]
    # The session that holds the advisory lock ends with the engine's only connection, and the lock with it.
    engine = create_engine(url, poolclass=NullPool, connect_args=context.config.attributes["connect_args"])
    with engine.connect() as connection:
        _take_turn(connection)
        context.configure(
            connection=connection,
            target_metadata=context.config.attributes.get("metadata"),
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


def _take_turn(connection: Connection) -> None:
    # If this host vanishes, its locks must not stay.
    for name, value in context.config.attributes["session"].items():
        connection.execute(text(f"SET {name} = '{value}'"))
    connection.execute(text(f"SET statement_timeout = '{WAIT_FOR_OTHER_RELEASE}'"))
    connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": MIGRATION_LOCK})
    connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET statement_timeout = '{STATEMENT_TIMEOUT}'"))
    connection.commit()


run_migrations()
