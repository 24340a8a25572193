"""Queries of `bin/gateway doctor`: the server's version, models without a price, keys that expire soon."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text


class ExpiringKey(NamedTuple):
    """A live key that expires soon."""

    id: str
    name: str
    expires_at: datetime


def select_server_version(connection: Connection) -> int:
    """Returns the version of PostgreSQL, such as 160002."""
    return int(connection.execute(text("SELECT current_setting('server_version_num')")).scalar_one())


def select_unpriced_models(connection: Connection, limit: int) -> list[str]:
    """Returns models of served requests of the last 7 days with an unknown cost, `provider/model`, most used first."""
    query = """
        SELECT gateway || '/' || model_served FROM activity
        WHERE started_at > now() - interval '7 days' AND outcome = 'ok' AND cost_kind = 'unknown'
              AND usage_source <> 'none' AND gateway IS NOT NULL AND model_served IS NOT NULL
        GROUP BY 1 ORDER BY count(*) DESC LIMIT :limit
    """
    return [row[0] for row in connection.execute(text(query), {"limit": limit})]


def select_expiring_keys(connection: Connection, limit: int) -> list[ExpiringKey]:
    """Returns live keys that expire within 7 days, the soonest first."""
    query = """
        SELECT id, name, expires_at FROM api_key
        WHERE revoked_at IS NULL AND expires_at BETWEEN now() AND now() + interval '7 days'
        ORDER BY expires_at LIMIT :limit
    """
    return [ExpiringKey(*row) for row in connection.execute(text(query), {"limit": limit})]
