"""The table kept_answer: encrypted answers of requests with an Idempotency-Key, and claims of requests being served.

A row is inserted before its request is served and gets the answer once. It is deleted when it has expired, or if the
request cost nothing. All times are by PostgreSQL's clock.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Column, DateTime, Engine, Index, Integer, LargeBinary, Table, Text, Uuid, func, text

from app.db.tables import metadata as metadata
from app.db.workers import MISSING_AFTER_S

kept_answer = Table(
    "kept_answer",
    metadata,
    Column("id", LargeBinary, primary_key=True, comment="of the Idempotency-Key, keyed by the gateway key"),
    Column("key_id", Text, nullable=False, comment="api_key.id, or env for the key of the environment"),
    Column("request_id", Uuid, nullable=False, comment="the request that has, or gets, the answer"),
    Column("body_digest", LargeBinary, nullable=False, comment="of path and body, keyed by the gateway key"),
    Column("worker_id", Text, nullable=False, comment="the worker that serves it"),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("bytes", Integer, nullable=False, server_default="0", comment="the length of sealed"),
    Column("sealed", LargeBinary, comment="the answer, encrypted by the gateway key; NULL while it is served"),
)
Index("ix_kept_answer_expires_at", kept_answer.c.expires_at)

# An expired row that was not deleted yet is taken over.
_INSERT = text("""
    INSERT INTO kept_answer AS kept (id, key_id, request_id, body_digest, worker_id, expires_at)
    VALUES (:id, :key_id, :request_id, :body_digest, :worker_id, now() + make_interval(hours => :hours))
    ON CONFLICT (id) DO UPDATE
    SET request_id = excluded.request_id, body_digest = excluded.body_digest, worker_id = excluded.worker_id,
        created_at = now(), expires_at = excluded.expires_at, bytes = 0, sealed = NULL
    WHERE kept.expires_at <= now()
    RETURNING 1""")

# A killed worker counts as ended once another one of its host has delivered its journal, or, if its host is gone, once
# it is silent.
_SELECT = text(f"""
    SELECT request_id, body_digest, sealed,
        NOT coalesce(live.closed_at IS NULL AND live.last_seen_at >= now() - interval '{MISSING_AFTER_S} s',
            kept.created_at >= now() - interval '{MISSING_AFTER_S} s') AS is_lost
    FROM kept_answer AS kept LEFT JOIN worker AS live USING (worker_id)
    WHERE id = :id AND expires_at > now()""")

_UPDATE = text("""
    UPDATE kept_answer SET sealed = :sealed, bytes = :bytes
    WHERE id = :id AND request_id = :request_id AND sealed IS NULL""")

# Sets a nonexistent worker, so that the answer counts as lost once no worker could still be about to register.
_UPDATE_LOST = text("""
    UPDATE kept_answer SET worker_id = '' WHERE id = :id AND request_id = :request_id AND sealed IS NULL""")

_DELETE = text("DELETE FROM kept_answer WHERE id = :id AND request_id = :request_id AND sealed IS NULL")

_SELECT_SUMS = text("SELECT key_id, count(*), CAST(sum(bytes) AS bigint) FROM kept_answer GROUP BY key_id")

_DELETE_EXPIRED = text("DELETE FROM kept_answer WHERE expires_at <= now()")


class NewClaim(NamedTuple):
    """A request that is about to be served: its row before it has an answer; `hours` is how long the row is kept."""

    id: bytes
    key_id: str
    request_id: str
    body_digest: bytes
    worker_id: str
    hours: int


class FoundAnswer(NamedTuple):
    """The state of an earlier request, with its kept answer.

    Attributes:
        request_id: its id.
        body_digest: the digest of its path and body.
        sealed: its answer, encrypted; None without one.
        is_lost: whether its worker has ended, so that it will never have an answer.
    """

    request_id: str
    body_digest: bytes
    sealed: bytes | None
    is_lost: bool


def insert_claim(engine: Engine, claim: NewClaim) -> bool:
    """Adds the row of a request; returns False if there is one with its id already."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return connection.execute(_INSERT, claim._asdict()).scalar() is not None


def select_answer(engine: Engine, id: bytes) -> FoundAnswer | None:
    """Returns the row with an id; None if there is none."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.execute(_SELECT, {"id": id}).first()
    if row is None:
        return None
    sealed = None if row.sealed is None else bytes(row.sealed)
    return FoundAnswer(str(row.request_id), bytes(row.body_digest), sealed, row.is_lost)


def update_answer(engine: Engine, id: bytes, request_id: str, sealed: bytes) -> None:
    """Adds the answer to the row of a request, unless it has one."""
    values = {"id": id, "request_id": request_id, "sealed": sealed, "bytes": len(sealed)}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_UPDATE, values)


def update_lost(engine: Engine, id: bytes, request_id: str) -> None:
    """Marks a request as one that will never have its answer here, although its worker lives."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_UPDATE_LOST, {"id": id, "request_id": request_id})


def delete_claim(engine: Engine, id: bytes, request_id: str) -> None:
    """Deletes the row of a request without an answer."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(_DELETE, {"id": id, "request_id": request_id})


def select_sums(engine: Engine) -> dict[str, tuple[int, int]]:
    """Returns gateway key → the number of its rows, and the bytes of their answers."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return {row[0]: (int(row[1]), int(row[2])) for row in connection.execute(_SELECT_SUMS)}


def delete_expired_answers(engine: Engine) -> int:
    """Deletes expired rows and returns their number."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return int(connection.execute(_DELETE_EXPIRED).rowcount)
