"""The tables dashboard_session and dashboard_link: dashboard sessions and sign-in links, as digests only."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import NamedTuple

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    DateTime,
    LargeBinary,
    Table,
    and_,
    delete,
    func,
    insert,
    not_,
    select,
    update,
)

from app.db.tables import metadata as metadata

# A session ends this long after its last page, and at most this long after its start.
IDLE = timedelta(hours=8)
LONGEST = timedelta(hours=24)
# A link that was not used within this time is void.
LINK_LIFE = timedelta(minutes=5)

# A page writes only if the last write is older, so that a page that refreshes itself writes once a minute.
_TOUCH_EVERY = timedelta(minutes=1)

dashboard_session = Table(
    "dashboard_session",
    metadata,
    Column("digest", LargeBinary, primary_key=True, comment="SHA-256 of the token in the browser's cookie"),
    Column("key_digest", LargeBinary, nullable=False, comment="SHA-256 of the gateway key"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("last_seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

dashboard_link = Table(
    "dashboard_link",
    metadata,
    Column("digest", LargeBinary, primary_key=True, comment="SHA-256 of the token in the link"),
    Column("key_digest", LargeBinary, nullable=False, comment="SHA-256 of the gateway key"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)


class SessionRow(NamedTuple):
    """A session that has not ended: the digest of its token, 32 bytes, and of its gateway key."""

    digest: bytes
    key_digest: bytes


def _is_live() -> ColumnElement[bool]:
    row = dashboard_session.c
    return and_(row.last_seen_at > func.now() - IDLE, row.created_at > func.now() - LONGEST)


def insert_session(connection: Connection, digest: bytes, key_digest: bytes) -> None:
    """Adds a session, and deletes those that have expired."""
    connection.execute(delete(dashboard_session).where(not_(_is_live())))
    connection.execute(insert(dashboard_session).values(digest=digest, key_digest=key_digest))


def select_session(connection: Connection, digest: bytes) -> SessionRow | None:
    """Returns the session of a token and updates its last use; None if there is none or it has ended."""
    row = dashboard_session.c
    found = connection.execute(
        select(row.digest, row.key_digest, row.last_seen_at < func.now() - _TOUCH_EVERY).where(
            row.digest == digest, _is_live()
        )
    ).first()
    if found is None:
        return None
    if found[2]:
        connection.execute(update(dashboard_session).where(row.digest == digest).values(last_seen_at=func.now()))
    return SessionRow(bytes(found[0]), bytes(found[1]))


def select_sessions(connection: Connection, limit: int) -> list[SessionRow]:
    """Returns the sessions that have not ended, the most recently used first."""
    row = dashboard_session.c
    newest = select(row.digest, row.key_digest).where(_is_live()).order_by(row.last_seen_at.desc()).limit(limit)
    return [SessionRow(bytes(digest), bytes(key)) for digest, key in connection.execute(newest)]


def delete_sessions(connection: Connection, digests: Collection[bytes]) -> None:
    """Ends the sessions with these token digests, if any."""
    connection.execute(delete(dashboard_session).where(dashboard_session.c.digest.in_(digests)))


def insert_link(connection: Connection, digest: bytes, key_digest: bytes) -> None:
    """Adds a one-time link, and deletes those that were never used."""
    connection.execute(delete(dashboard_link).where(dashboard_link.c.created_at <= func.now() - LINK_LIFE))
    connection.execute(insert(dashboard_link).values(digest=digest, key_digest=key_digest))


def delete_link(connection: Connection, digest: bytes) -> bytes | None:
    """Uses up a link and returns the digest of its key; None if there is none or it is too old."""
    row = dashboard_link.c
    used = (
        delete(dashboard_link)
        .where(row.digest == digest)
        .returning(row.key_digest, row.created_at > func.now() - LINK_LIFE)
    )
    found = connection.execute(used).first()
    return bytes(found[0]) if found is not None and found[1] else None
