"""Finds keys, and lists them page by page."""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

import msgspec

from app.cursors import decode_cursor, decode_time, encode_cursor, encode_time
from app.db import Connection, read_connection
from app.db.keys import KEY_STATES as KEY_STATES
from app.db.keys import KeyRow, select_key, select_key_names, select_key_page, select_keys
from app.db.subjects import select_holder_page
from app.errors import NotFound
from app.services.administration.groups import find_group
from app.services.administration.holder_lists import find_holder
from app.services.administration.views import KeyView, make_key_views
from app.services.keys import OPERATOR_KEY, PREFIX

# The microseconds since the epoch of `created_at`; the id follows.
_CURSOR = struct.Struct(">q")


class KeyPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of keys, newest first; `next_cursor` is that of the next page, None on the last one."""

    object: Literal["list"] = "list"
    data: list[KeyView]
    has_more: bool
    next_cursor: str | None


def select_key_view(id: str) -> KeyView:
    """Returns a key.

    Raises:
        NotFound: there is no such key.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return make_key_view(connection, find_key(connection, id, lock=False))


def list_keys() -> list[KeyView]:
    """Returns all keys, including revoked ones, oldest first.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return make_key_views(connection, select_keys(connection))


def select_names(ids: Collection[str]) -> dict[str, str]:
    """Returns id → name for the given ids of existing keys, including GATEWAY_API_KEY, which is not stored.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return select_key_names(connection, ids) | {OPERATOR_KEY.id: OPERATOR_KEY.name}


def select_keys_page(
    *,
    holder: str | None,
    group: str | None,
    search: str | None = None,
    state: str | None = None,
    cursor: str | None,
    limit: int,
) -> KeyPage:
    """Returns up to `limit` keys, including revoked ones, newest first.

    Args:
        holder, group: only the keys of this holder, or of the holders of this group, by name or id.
        search: only keys with this text in their name, their id or the name of their holder, ignoring case.
        state: "works", "expired" or "revoked": only keys in this state; a replaced key works until it expires.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: the most keys per page.

    Raises:
        NotFound: there is no such holder or group.
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    after = None if cursor is None else decode_cursor(cursor, _read_place)
    with read_connection() as connection:
        holder_ids = _find_holders(connection, holder, group)
        rows = select_key_page(
            connection,
            holder_ids=holder_ids,
            search=_trim_search(search),
            state=state,
            after=after,
            limit=limit + 1,
        )
        views = make_key_views(connection, rows[:limit])
    has_more = len(rows) > limit
    return KeyPage(data=views, has_more=has_more, next_cursor=_make_cursor(rows[limit - 1]) if has_more else None)


def _trim_search(text: str | None) -> str | None:
    """Returns the text to search for: only the id if it is a key, whole or shortened as in lists; None for nothing."""
    trimmed = (text or "").strip()
    if trimmed.startswith(PREFIX):
        trimmed = trimmed.removeprefix(PREFIX).partition("_")[0].partition("…")[0]
    return trimmed or None


def _find_holders(connection: Connection, holder: str | None, group: str | None) -> Sequence[str] | None:
    ids: set[str] | None = None
    if holder is not None:
        row = find_holder(connection, holder, lock=False)
        ids = {row.id}
    if group is not None:
        group_id = find_group(connection, group).id
        members = set(select_holder_page(connection, group_id=group_id))
        ids = members if ids is None else ids & members
    return None if ids is None else sorted(ids)


def find_key(connection: Connection, id: str, *, lock: bool) -> KeyRow:
    """Returns a key, locked or not.

    Raises:
        NotFound: there is no such key.
    """
    row = select_key(connection, id, lock=lock)
    if row is None:
        raise NotFound(
            f"There is no key with the id {id[:100]!r}. `bin/gateway keys list` or GET /api/keys shows all.",
            param="key",
            code="unknown_key",
        )
    return row


def make_key_view(connection: Connection, row: KeyRow) -> KeyView:
    """Returns a key in the form for operators."""
    (view,) = make_key_views(connection, [row])
    return view


def _read_place(content: bytes) -> tuple[datetime, str]:
    (microseconds,) = _CURSOR.unpack(content[: _CURSOR.size])
    id = content[_CURSOR.size :].decode("ascii")
    if not id.isalnum():
        raise ValueError("ids have letters and digits only")
    return decode_time(microseconds), id


def _make_cursor(row: KeyRow) -> str:
    return encode_cursor(_CURSOR.pack(encode_time(row.created_at)) + row.id.encode())
