"""The audit: who changed which object and when, with its state before and after."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from app.cursors import read_id_cursor
from app.db import Connection, read_connection
from app.db.audit import AuditFilter as AuditFilter
from app.db.audit import insert_audit_event, select_audit_events

# Longer user names are cut; only programs choose such names.
_MAX_USER_CHARACTERS = 100


class AuditEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One change.

    Attributes:
        at: when the change was made, by PostgreSQL's clock.
        actor: who made it: the id of an operator's key, "env" for GATEWAY_API_KEY, or cli: and the user who ran a
            command.
        action: what was done, such as "key.create".
        object: what was changed, such as "key:4fGh2Kl9Pq".
        before, after: the name, and what is different; None before the object was made, or after it was deleted.
    """

    id: int
    at: datetime
    actor: str
    action: str
    object: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of changes, newest first; `next_cursor` is that of the next page, None on the last one."""

    object: Literal["list"] = "list"
    data: list[AuditEvent]
    has_more: bool
    next_cursor: str | None


def record_change(
    connection: Connection,
    actor: str,
    action: str,
    object: str,
    before: Mapping[str, Any] | None,
    after: Mapping[str, Any] | None,
) -> None:
    """Writes a change to the audit, in the transaction that makes it. A change without an effect is not written.

    Args:
        connection: the connection of the change.
        actor: who makes the change, as in AuditEvent.
        action, object: as in AuditEvent.
        before, after: the whole object as JSON values, without secrets. None if there is none. If both exist, only
            `name` and the differences are kept.
    """
    if before is not None and after is not None:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        if not names:
            return
        names = [name for name in {**before, **after} if name in names or name == "name"]
        before, after = [{name: each.get(name) for name in names} for each in (before, after)]
    insert_audit_event(
        connection,
        actor=actor,
        action=action,
        object=object,
        before=None if before is None else dict(before),
        after=None if after is None else dict(after),
    )


def get_command_actor() -> str:
    """Returns the actor for a change by a command: the user of this machine who runs it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())  # A container may run as a user without a name.
    return f"cli:{user[:_MAX_USER_CHARACTERS]}"


def select_audit_page(wanted: AuditFilter, cursor: str | None, limit: int) -> AuditPage:
    """Returns up to `limit` changes, newest first.

    Args:
        wanted: the filter.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: the most changes per page.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    before_id = read_id_cursor(cursor)
    with read_connection() as connection:
        rows = select_audit_events(connection, wanted, before_id=before_id, limit=limit + 1)
    has_more = len(rows) > limit
    events = [AuditEvent(**row._asdict()) for row in rows[:limit]]
    return AuditPage(data=events, has_more=has_more, next_cursor=str(events[-1].id) if has_more else None)
