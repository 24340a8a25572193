"""PostgreSQL's clock, which all workers and hosts share, and this machine's deviation from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, text


class Clocks(NamedTuple):
    """Two clocks, read at about the same instant; both times are UTC.

    Attributes:
        database: PostgreSQL's clock, which decides about ages.
        host: this machine's clock, which stamps the records.
    """

    database: datetime
    host: datetime

    @property
    def skew(self) -> timedelta:
        """How far this machine's clock is ahead of PostgreSQL's; negative when it is behind."""
        return self.host - self.database


def select_now(connection: Connection) -> datetime:
    """Returns PostgreSQL's time, in UTC."""
    now: datetime = connection.execute(text("SELECT now()")).scalar_one()
    return now.astimezone(UTC)


def read_clocks(connection: Connection) -> Clocks:
    """Returns both clocks; the time of the query lies between them."""
    return Clocks(select_now(connection), datetime.now(UTC))
