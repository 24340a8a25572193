"""Makes the clock of one database wrong, by a function now() that takes precedence over PostgreSQL's."""

from __future__ import annotations

from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool


def shift_clock(url: str, interval: str) -> None:
    """Shifts the clock of a database by an interval such as `-100 days`, for new connections."""
    name = url.rpartition("/")[2].partition("?")[0]
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql "
                f"AS $$ SELECT pg_catalog.now() + interval '{interval}' $$"
            )
        )
        connection.execute(text(f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog'))
