"""Groups of holders, who share the limits of the group."""

from __future__ import annotations

from msgspec import UnsetType

from app.db import Connection, read_connection, write_connection
from app.db.budgets import delete_budgets
from app.db.subjects import (
    SubjectRow,
    delete_subject,
    insert_subject,
    select_holder_count,
    select_holder_counts,
    select_subject,
    select_subjects,
)
from app.errors import NotFound
from app.services.administration.audit import record_change
from app.services.administration.changes import GroupChanges, NewGroup
from app.services.administration.limits import (
    apply_limits,
    describe_subject,
    make_name_conflict,
    validate_name,
)
from app.services.administration.views import GroupView, raise_if_group_is_used, select_limits
from app.services.keys import make_id


def create_group(actor: str, wanted: NewGroup) -> GroupView:
    """Makes a group and returns it.

    Raises:
        BadRequest: its name or a limit makes no sense.
        Conflict: there is a group of this name.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = insert_subject(connection, id=make_id(), kind="group", name=validate_name(wanted.name))
        if row is None:
            raise make_name_conflict("group", wanted.name)
        apply_limits(connection, actor, row, wanted, is_new=True)
        return _make_view(connection, row.id)


def change_group(actor: str, name_or_id: str, changes: GroupChanges, *, keep_budgets: bool = False) -> GroupView:
    """Changes a group and returns it.

    Args:
        actor: who makes the change.
        name_or_id: which group.
        changes: the changes.
        keep_budgets: whether budgets that `changes` does not name stay.

    Raises:
        NotFound: there is no such group.
        BadRequest, Conflict, DatabaseError: as for `create_group`.
    """
    with write_connection() as connection:
        row = find_group(connection, name_or_id, lock=True)
        columns = {} if isinstance(changes.name, UnsetType) else {"name": validate_name(changes.name)}
        apply_limits(connection, actor, row, changes, columns=columns, keep_budgets=keep_budgets)
        return _make_view(connection, row.id)


def delete_group(actor: str, name_or_id: str) -> None:
    """Deletes a group with its budgets and their charges.

    Raises:
        NotFound: there is no such group.
        Conflict: it has holders.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = find_group(connection, name_or_id, lock=True)
        holders = select_holder_count(connection, row.id)
        raise_if_group_is_used(row.name, holders)
        before = describe_subject(connection, row)
        delete_budgets(connection, row.id)
        delete_subject(connection, row.id)
        record_change(connection, actor, "group.delete", f"group:{row.id}", before, None)


def select_group(name_or_id: str) -> GroupView:
    """Returns a group.

    Raises:
        NotFound: there is no such group.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return _make_view(connection, find_group(connection, name_or_id).id)


def select_groups() -> list[GroupView]:
    """Returns all groups, by name.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return _make_views(connection, select_subjects(connection, kind="group"))


def find_group(connection: Connection, name_or_id: str, *, lock: bool = False) -> SubjectRow:
    """Returns the group with this id or, if there is none, with this name.

    Raises:
        NotFound: neither exists.
    """
    row = select_subject(connection, id=name_or_id, kind="group", lock=lock) or select_subject(
        connection, kind="group", name=name_or_id, lock=lock
    )
    if row is None:
        raise NotFound(
            f"There is no group {name_or_id[:100]!r}. `bin/gateway groups list` or GET /api/groups shows all.",
            param="group",
            code="unknown_group",
        )
    return row


def _make_view(connection: Connection, id: str) -> GroupView:
    (view,) = _make_views(connection, select_subjects(connection, ids=[id]))
    return view


def _make_views(connection: Connection, rows: dict[str, SubjectRow]) -> list[GroupView]:
    holders, limits = select_holder_counts(connection), select_limits(connection, rows)
    return [
        GroupView(
            id=id,
            name=row.name,
            holders=holders.get(id, 0),
            created_at=row.created_at,
            **limits[id],
        )
        for id, row in rows.items()
    ]
