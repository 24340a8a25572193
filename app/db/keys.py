"""The table api_key: digests of gateway keys, never the keys themselves."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Text, and_, func, insert, literal, or_, select, tuple_, update
from sqlalchemy.dialects.postgresql import ARRAY

from app.db.limit_tables import subject
from app.db.tables import api_key


class KeyRow(NamedTuple):
    """One key without its digest.

    Attributes:
        id: its public id.
        revoked_at: None unless it was revoked.
        holder_id: the holder whose limits apply; None without limits of its own.
        expires_at: the time from which on it does not work; None if it never expires.
        replaced_by: the id of the key that it was rotated to, or None.
        is_operator: whether it has all rights, like GATEWAY_API_KEY.
    """

    id: str
    name: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None
    holder_id: str | None
    expires_at: datetime | None
    replaced_by: str | None
    is_operator: bool


# States that a search can ask for. A replaced key works until it expires.
KEY_STATES = ("works", "expired", "revoked")

_COLUMNS = [api_key.c[name] for name in KeyRow._fields]


def insert_key(
    connection: Connection,
    *,
    id: str,
    name: str,
    digest: bytes,
    last_four: str,
    holder_id: str | None = None,
    expires_at: datetime | None = None,
    is_operator: bool = False,
) -> KeyRow:
    """Adds a key and returns its row; `digest` is the SHA-256 of the whole key, 32 bytes.

    Raises:
        DatabaseError: the id or the digest exists already, the holder does not, or the database is unavailable.
    """
    values = {
        "id": id,
        "name": name,
        "digest": digest,
        "last_four": last_four,
        "holder_id": holder_id,
        "expires_at": expires_at,
        "is_operator": is_operator,
    }
    return KeyRow(*connection.execute(insert(api_key).values(values).returning(*_COLUMNS)).one())


def select_keys_by_digest(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, KeyRow]:
    """Returns digest → key, revoked or not, for those of the digests that belong to a key."""
    rows = connection.execute(select(api_key.c.digest, *_COLUMNS).where(api_key.c.digest.in_(digests)))
    return {bytes(row[0]): KeyRow(*row[1:]) for row in rows}


def select_keys(connection: Connection) -> list[KeyRow]:
    """Returns all keys, including revoked ones, oldest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(api_key.c.created_at, api_key.c.id))
    return [KeyRow(*row) for row in rows]


def select_key_page(
    connection: Connection,
    *,
    holder_ids: Collection[str] | None = None,
    search: str | None = None,
    state: str | None = None,
    after: tuple[datetime, str] | None = None,
    limit: int,
) -> list[KeyRow]:
    """Returns up to `limit` keys, including revoked ones, newest first.

    A search scans all keys without an index: there are thousands, which take milliseconds.

    Args:
        connection: the database.
        holder_ids: only keys of these holders; None for all keys.
        search: only keys with this text in their name, their id or the name of their holder, ignoring case.
        state: only keys in this one of KEY_STATES.
        after: `created_at` and id of the last key of the previous page.
        limit: the most keys to return.
    """
    query = select(*_COLUMNS).order_by(api_key.c.created_at.desc(), api_key.c.id.desc()).limit(limit)
    if holder_ids is not None:
        query = query.where(api_key.c.holder_id.in_(holder_ids))
    if search is not None:
        holders = select(subject.c.id).where(subject.c.name.icontains(search, autoescape=True))
        columns = (api_key.c.name, api_key.c.id)
        texts = [column.icontains(search, autoescape=True) for column in columns]
        query = query.where(or_(*texts, api_key.c.holder_id.in_(holders)))
    if state is not None:
        query = query.where(_is_in_state(state))
    if after is not None:
        query = query.where(tuple_(api_key.c.created_at, api_key.c.id) < tuple_(*map(literal, after)))
    return [KeyRow(*row) for row in connection.execute(query)]


def _is_in_state(state: str) -> ColumnElement[bool]:
    is_kept, is_expired = api_key.c.revoked_at.is_(None), api_key.c.expires_at <= func.now()
    return {
        "works": and_(is_kept, is_expired.is_not(True)),
        "expired": and_(is_kept, is_expired),
        "revoked": api_key.c.revoked_at.is_not(None),
    }[state]


def select_key_names(connection: Connection, ids: Collection[str]) -> dict[str, str]:
    """Returns id → name, for the given ids that are stored."""
    query = select(api_key.c.id, api_key.c.name).where(api_key.c.id == func.any(literal(list(ids), ARRAY(Text))))
    return {row[0]: row[1] for row in connection.execute(query)}


def select_keys_of_holders(connection: Connection, holder_ids: Collection[str]) -> list[KeyRow]:
    """Returns the keys of these holders, including revoked ones, oldest first."""
    query = select(*_COLUMNS).where(api_key.c.holder_id.in_(holder_ids))
    return [KeyRow(*row) for row in connection.execute(query.order_by(api_key.c.created_at, api_key.c.id))]


def select_key(connection: Connection, id: str, *, lock: bool) -> KeyRow | None:
    """Returns the key with this id, revoked or not; None if there is none. With `lock`, others that lock it wait."""
    query = select(*_COLUMNS).where(api_key.c.id == id)
    row = connection.execute(query.with_for_update(key_share=True) if lock else query).first()
    return None if row is None else KeyRow(*row)


def select_key_digest(connection: Connection, id: str) -> bytes | None:
    """Returns the SHA-256 of the key with this id; None if there is none, or if it is revoked."""
    query = select(api_key.c.digest).where(api_key.c.id == id, api_key.c.revoked_at.is_(None))
    found = connection.execute(query).scalar()
    return None if found is None else bytes(found)


def select_key_exists(connection: Connection, id: str) -> bool:
    """Returns whether there is a key with this id, revoked or not."""
    return bool(connection.execute(select(select(api_key.c.id).where(api_key.c.id == id).exists())).scalar_one())


def update_key(connection: Connection, id: str, values: Mapping[str, Any]) -> KeyRow:
    """Sets these columns of an existing key and returns it."""
    query = update(api_key).where(api_key.c.id == id).values(dict(values)).returning(*_COLUMNS)
    return KeyRow(*connection.execute(query).one())


def update_key_revoked(connection: Connection, id: str) -> KeyRow | None:
    """Revokes a key and returns it; None when there is no such id. A second call keeps the time of the first."""
    revoked_at = func.coalesce(api_key.c.revoked_at, func.now())
    query = update(api_key).where(api_key.c.id == id).values(revoked_at=revoked_at).returning(*_COLUMNS)
    row = connection.execute(query).first()
    return None if row is None else KeyRow(*row)
