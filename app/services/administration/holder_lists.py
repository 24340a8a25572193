"""Finds holders of keys, and lists them page by page."""

from __future__ import annotations

from typing import Literal

import msgspec

from app.cursors import decode_cursor, encode_cursor
from app.db import Connection, read_connection
from app.db.keys import select_keys_of_holders
from app.db.subjects import SubjectRow, select_holder_page, select_subject
from app.errors import NotFound
from app.services.administration.groups import find_group
from app.services.administration.views import HolderView, make_holder_views


class HolderPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of holders, by name; `next_cursor` is that of the next page, None on the last one."""

    object: Literal["list"] = "list"
    data: list[HolderView]
    has_more: bool
    next_cursor: str | None


def select_holder(name_or_id: str) -> HolderView:
    """Returns a holder.

    Raises:
        NotFound: there is no such holder.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return make_holder_view(connection, find_holder(connection, name_or_id, lock=False))


def select_holders_page(*, group: str | None = None, cursor: str | None = None, limit: int | None = None) -> HolderPage:
    """Returns holders by name.

    Args:
        group: only holders of this group, by name or id.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: the most holders per page; None for all of them.

    Raises:
        NotFound: there is no such group.
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    after = None if cursor is None else decode_cursor(cursor, _read_place)
    with read_connection() as connection:
        group_id = None if group is None else find_group(connection, group).id
        asked = None if limit is None else limit + 1
        rows = select_holder_page(connection, group_id=group_id, after=after, limit=asked)
        has_more = limit is not None and len(rows) > limit
        views = make_holder_views(connection, dict(list(rows.items())[:limit]))
    return HolderPage(
        data=views, has_more=has_more, next_cursor=encode_cursor(views[-1].name.encode()) if has_more else None
    )


def select_key_ids(*, holder: str | None = None, group: str | None = None) -> tuple[str, list[str]]:
    """Returns the name of a holder or a group, and the ids of all its keys, including revoked ones.

    Args:
        holder, group: one of the two, by name or id.

    Raises:
        NotFound: there is no such holder or group.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        if holder is not None:
            owner = find_holder(connection, holder, lock=False)
            holders = [owner.id]
        else:
            owner = find_group(connection, str(group))
            holders = list(select_holder_page(connection, group_id=owner.id))
        return owner.name, [key.id for key in select_keys_of_holders(connection, holders)]


def find_holder(connection: Connection, name_or_id: str, *, lock: bool) -> SubjectRow:
    """Returns the holder with this id or, if there is none, with this name.

    Raises:
        NotFound: neither exists.
    """
    row = select_subject(connection, id=name_or_id, kind="holder", lock=lock) or select_subject(
        connection, kind="holder", name=name_or_id, lock=lock
    )
    if row is None:
        raise NotFound(
            f"There is no holder {name_or_id[:100]!r}. `bin/gateway holders list` or GET /api/holders shows all.",
            param="holder",
            code="unknown_holder",
        )
    return row


def make_holder_view(connection: Connection, row: SubjectRow) -> HolderView:
    """Returns a holder in the form for operators."""
    (view,) = make_holder_views(connection, {row.id: row})
    return view


def _read_place(content: bytes) -> str:
    name = content.decode()
    if not name.isprintable():
        raise ValueError("names can be printed")
    return name
