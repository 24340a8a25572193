"""The table audit_event: who changed which object and when, with its state before and after."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, insert, select

from app.db.limit_tables import audit_event


class AuditRow(NamedTuple):
    """One change. `before` is None if the object was made, `after` if it was deleted."""

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditFilter(NamedTuple):
    """A filter for changes; None restricts nothing. `start` is included and `end` is not."""

    object: str | None = None
    actor: str | None = None
    action: str | None = None
    start: datetime | None = None
    end: datetime | None = None


_COLUMNS = [audit_event.c[name] for name in AuditRow._fields]


def insert_audit_event(
    connection: Connection,
    *,
    actor: str,
    action: str,
    object: str,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Adds a change; it is kept if the transaction of `connection` is committed."""
    values = {"actor": actor, "action": action, "object": object, "before": before, "after": after}
    connection.execute(insert(audit_event).values(values))


def select_audit_events(
    connection: Connection, wanted: AuditFilter, *, before_id: int | None, limit: int
) -> list[AuditRow]:
    """Returns up to `limit` changes, newest first, that are older than the one with the id `before_id`."""
    columns = audit_event.c
    equal = {columns.object: wanted.object, columns.actor: wanted.actor, columns.action: wanted.action}
    conditions: list[ColumnElement[bool]] = [column == value for column, value in equal.items() if value is not None]
    if wanted.start is not None:
        conditions.append(columns.at >= wanted.start)
    if wanted.end is not None:
        conditions.append(columns.at < wanted.end)
    if before_id is not None:
        conditions.append(columns.id < before_id)
    rows = connection.execute(select(*_COLUMNS).where(*conditions).order_by(columns.id.desc()).limit(limit))
    return [AuditRow(*row) for row in rows]
