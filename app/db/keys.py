"""The table api_key: digests of gateway keys, never the keys themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from app.db.tables import api_key


class KeyRow(NamedTuple):
    """One key without its digest.

    Attributes:
        id: its public id.
        revoked_at: None unless it was revoked.
        holder_id: the subject whose limits it has; None without limits of its own.
        expires_at: from when on it does not work; None if it never expires.
        replaced_by: the id of the key that it was rotated to, or None.
        is_operator: whether it has all rights, as GATEWAY_API_KEY has.
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
    """Returns digest → key, revoked or not, for those among `digests` that have one."""
    rows = connection.execute(select(api_key.c.digest, *_COLUMNS).where(api_key.c.digest.in_(digests)))
    return {bytes(row[0]): KeyRow(*row[1:]) for row in rows}


def select_keys(connection: Connection) -> list[KeyRow]:
    """Returns all keys, revoked ones too, oldest first."""
    rows = connection.execute(select(*_COLUMNS).order_by(api_key.c.created_at, api_key.c.id))
    return [KeyRow(*row) for row in rows]


def select_key_exists(connection: Connection, id: str) -> bool:
    """Returns whether there is a key with this id, revoked or not."""
    return bool(connection.execute(select(select(api_key.c.id).where(api_key.c.id == id).exists())).scalar_one())


def update_key_revoked(connection: Connection, id: str) -> KeyRow | None:
    """Revokes a key and returns it; None when there is no such id. A second call keeps the time of the first."""
    revoked_at = func.coalesce(api_key.c.revoked_at, func.now())
    query = update(api_key).where(api_key.c.id == id).values(revoked_at=revoked_at).returning(*_COLUMNS)
    row = connection.execute(query).first()
    return None if row is None else KeyRow(*row)
