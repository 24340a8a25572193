"""The table api_key: digests of gateway keys, never the keys themselves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, text, update

from app.db.tables import api_key


class KeyRow(NamedTuple):
    """One key without its digest. `id` is public; `revoked_at` is None while the key works."""

    id: str
    name: str
    last_four: str
    created_at: datetime
    revoked_at: datetime | None


_COLUMNS = [api_key.c[name] for name in KeyRow._fields]

# The fingerprint is a sum, so that the keys need not be sorted. In parts, because each is parsed without a pause. Where
# the fingerprint is the same, PostgreSQL does not execute the second query.
_SELECT_LIVE_KEYS = text("""
    SELECT live.fingerprint, parts.part
    FROM (
        SELECT count(*) || ':' || coalesce(sum(
            hashtextextended(name, hashtextextended(id, hashtextextended(encode(digest, 'hex'), 0)))
        ), 0) AS fingerprint
        FROM api_key WHERE revoked_at IS NULL
    ) live
    LEFT JOIN LATERAL (
        SELECT json_object_agg(encode(digest, 'base64'), json_build_array(id, name))::text AS part
        FROM api_key WHERE revoked_at IS NULL AND live.fingerprint <> :held
        GROUP BY hashtext(id) & 15
    ) parts ON true
""")


def insert_key(connection: Connection, *, id: str, name: str, digest: bytes, last_four: str) -> KeyRow:
    """Adds a key and returns its row; `digest` is the SHA-256 of the whole key, 32 bytes.

    Raises:
        DatabaseError: the id or the digest exists already, or the database is unavailable.
    """
    values = {"id": id, "name": name, "digest": digest, "last_four": last_four}
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


class LiveKeys(NamedTuple):
    """The keys that are not revoked, at one moment.

    Attributes:
        fingerprint: changes when such a key is added or revoked, or when its id, name or digest changes.
        parts: JSON objects of base64 of a digest → [id, name], which have all keys together; None if the caller has
            them already.
    """

    fingerprint: str
    parts: list[str] | None


def select_live_keys(connection: Connection, held: str) -> LiveKeys:
    """Returns all keys that are not revoked, or only their fingerprint if that is `held`, in one round trip.

    Args:
        held: the fingerprint of what the caller has; "" if it has nothing.
    """
    rows = connection.execute(_SELECT_LIVE_KEYS, {"held": held}).all()
    fingerprint = rows[0].fingerprint
    # The keys are read from the same snapshot as their fingerprint. Without any there is no part.
    return LiveKeys(fingerprint, None if fingerprint == held else [row.part for row in rows if row.part is not None])
