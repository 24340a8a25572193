"""Finds records of the table activity by the id that the gateway, a provider or a client has for a request."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, select

from app.config import MAX_NAME_CHARACTERS
from app.db.request_ids import ID_TOLERANCE, read_id_time
from app.db.tables import activity


def select_activity_by_request_id(connection: Connection, request_id: UUID, key_id: str | None) -> list[dict[str, Any]]:
    """Returns the row with the gateway's own id, in a list; [] when there is none.

    The id is a UUID of version 7 and begins with the time, so only the rows of two seconds are searched.

    Args:
        connection: the connection.
        request_id: the id.
        key_id: the key that the row must belong to; None for any.
    """
    if request_id.version != 7:
        return []
    made_at = read_id_time(request_id)
    near = activity.c.started_at.between(made_at - ID_TOLERANCE, made_at + ID_TOLERANCE)
    return _select(connection, [near, activity.c.request_id == request_id], key_id, 1)


def select_activity_by_foreign_id(
    connection: Connection, column: str, value: str, key_id: str | None, limit: int
) -> list[dict[str, Any]]:
    """Returns up to `limit` rows whose `column` has a value, newest first; both columns are indexed.

    Args:
        connection: the connection.
        column: client_request_id or upstream_request_id.
        value: the id; the table keeps the first MAX_NAME_CHARACTERS of it.
        key_id: the key that the rows must belong to; None for all.
        limit: the most rows to return.
    """
    return _select(connection, [activity.c[column] == value[:MAX_NAME_CHARACTERS]], key_id, limit)


def _select(
    connection: Connection, conditions: list[ColumnElement[bool]], key_id: str | None, limit: int
) -> list[dict[str, Any]]:
    if key_id is not None:
        conditions = [*conditions, activity.c.key_id == key_id]
    query = select(activity).where(*conditions).order_by(activity.c.started_at.desc()).limit(limit)
    return [dict(row) for row in connection.execute(query).mappings()]
