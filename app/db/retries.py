"""Retries of SDKs: those waiting to be linked, the attempts that they may repeat, and the cost of repeated attempts.

The statement that inserts records notes retries in `unlinked_retry`. One worker at a time links them a moment later
(services/journal/retry_links.py), because the attempt that a retry repeats may arrive after it, from another worker or
from the journal of a killed one. A link is on both records: `retry_of` and `retried_by`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Connection, and_, bindparam, delete, func, select, text, update

from app.db.tables import activity, unlinked_retry

# "retr" in ASCII. Held while retries are linked.
LINK_LOCK = 0x72657472

# How long a retry waits for its original, after it has arrived.
WAITS = timedelta(minutes=15)


class Attempt(NamedTuple):
    """The data of one SDK request that links need; times have a timezone.

    Attributes:
        request_id, started_at: the key of the record.
        key_id, endpoint, body_digest: equal for all attempts of one request.
        number: the number of earlier retries, as the SDK stated it; 0 for a first attempt.
        duration_ms: None if the worker was killed.
        is_ok: whether it was served.
        is_repeated: whether a retry is linked to it already.
        client_agent: the User-Agent of a retry.
        waits_s: for a retry that is to be linked, the seconds since it arrived.
    """

    request_id: UUID
    started_at: datetime
    key_id: str
    endpoint: str
    body_digest: str
    number: int
    duration_ms: float | None
    is_ok: bool
    is_repeated: bool
    client_agent: str | None
    waits_s: float = 0.0


class Link(NamedTuple):
    """A retry and the attempt that it repeats."""

    retry: Attempt
    attempt: Attempt


_COLUMNS = (
    activity.c.request_id,
    activity.c.started_at,
    activity.c.key_id,
    activity.c.endpoint,
    activity.c.body_digest,
    activity.c.client_retry,
    activity.c.duration_ms,
    (activity.c.outcome == "ok").label("is_ok"),
    activity.c.retried_by.is_not(None).label("is_repeated"),
    activity.c.client_agent,
)


def has_unlinked(connection: Connection) -> bool:
    """Returns whether any retry waits to be linked."""
    return bool(connection.execute(text("SELECT EXISTS (SELECT FROM unlinked_retry)")).scalar_one())


def try_lock_links(connection: Connection) -> bool:
    """Returns whether this transaction may link; False while another worker does so."""
    return bool(connection.execute(text(f"SELECT pg_try_advisory_xact_lock({LINK_LOCK})")).scalar_one())


def select_unlinked(connection: Connection, limit: int) -> list[Attempt]:
    """Returns up to `limit` retries that wait to be linked, the latest arrivals: the others had their chance."""
    waits_s = func.extract("epoch", func.now() - unlinked_retry.c.created_at)
    query = (
        select(*_COLUMNS, waits_s)
        .join(
            unlinked_retry,
            and_(
                unlinked_retry.c.started_at == activity.c.started_at,
                unlinked_retry.c.request_id == activity.c.request_id,
            ),
        )
        .order_by(unlinked_retry.c.created_at.desc())
        .limit(limit)
    )
    return [Attempt(*row[:-1])._replace(waits_s=float(row[-1])) for row in connection.execute(query)]


def select_attempts(
    connection: Connection, digests: Sequence[str], start: datetime, end: datetime, limit: int
) -> list[Attempt]:
    """Returns up to `limit` requests with these digests that started in [start, end), the newest first."""
    rows = activity.c
    query = select(*_COLUMNS).where(
        rows.body_digest.in_(digests),
        rows.started_at >= start,
        rows.started_at < end,
        rows.client_retry.is_not(None),
    )
    return [Attempt(*row) for row in connection.execute(query.order_by(rows.started_at.desc()).limit(limit))]


def update_links(connection: Connection, links: Sequence[Link]) -> None:
    """Writes the links to both records of each; the attempt also gets the retry's `client_agent`."""
    if not links:
        return
    this = and_(activity.c.started_at == bindparam("at"), activity.c.request_id == bindparam("id"))
    agent = func.coalesce(activity.c.client_agent, bindparam("agent"))
    for is_retry in (False, True):
        changes = (
            {"retry_of": bindparam("other")} if is_retry else {"retried_by": bindparam("other"), "client_agent": agent}
        )
        rows = [_make_parameters(link, is_retry=is_retry) for link in links]
        connection.execute(update(activity).where(this).values(changes), rows)


def _make_parameters(link: Link, *, is_retry: bool) -> dict[str, Any]:
    changed, other = (link.retry, link.attempt) if is_retry else (link.attempt, link.retry)
    names = {"at": changed.started_at, "id": changed.request_id, "other": other.request_id}
    return names if is_retry else names | {"agent": link.retry.client_agent}


def delete_unlinked(connection: Connection, retries: Sequence[UUID]) -> None:
    """Removes retries from the waiting ones, and all that have waited too long or whose record is gone."""
    too_long = unlinked_retry.c.created_at < func.now() - WAITS
    connection.execute(delete(unlinked_retry).where(unlinked_retry.c.request_id.in_(retries) | too_long))


class RepeatedSums(NamedTuple):
    """The cost of the attempts that one client's retries repeated.

    Attributes:
        key_id: the client's key.
        client_agent: its User-Agent; None if it sent none.
        outcome: the outcome of the attempts.
        attempts: their number.
        exact, estimated: their cost in USD.
        unpriced: the number of attempts that were sent and have no known cost.
    """

    key_id: str
    client_agent: str | None
    outcome: str
    attempts: int
    exact: Decimal
    estimated: Decimal
    unpriced: int


def select_repeated_sums(
    connection: Connection, start: datetime, end: datetime, key_id: str | None
) -> list[RepeatedSums]:
    """Returns the sums of attempts that started in [start, end) and were repeated, by client and outcome.

    Args:
        connection: the database.
        start, end: with a timezone.
        key_id: the key whose attempts to sum; None for all keys.
    """
    rows = activity.c
    columns = (rows.key_id, rows.client_agent, rows.outcome)
    costs = [
        func.coalesce(func.sum(rows.cost_usd).filter(rows.cost_kind == kind), 0) for kind in ("exact", "estimated")
    ]
    unpriced = func.count().filter(rows.cost_kind == "unknown", rows.outcome != "rejected")
    conditions = [rows.retried_by.is_not(None), rows.started_at >= start, rows.started_at < end]
    if key_id is not None:
        conditions.append(rows.key_id == key_id)
    query = select(*columns, func.count(), *costs, unpriced).where(*conditions).group_by(*columns)
    return [RepeatedSums(*row) for row in connection.execute(query)]


def select_same_body(connection: Connection, row: dict[str, Any], reach: timedelta, limit: int) -> list[dict[str, Any]]:
    """Returns a key's requests with the same digest as a record, including the record itself, oldest first.

    Args:
        connection: the database.
        row: the record: columns of activity by name; `body_digest` is known.
        reach: the distance in time from the record, in both directions.
        limit: the most requests to return.
    """
    rows = activity.c
    columns = (
        rows.request_id, rows.started_at, rows.client_retry, rows.status, rows.outcome, rows.cost_usd, rows.cost_kind,
        rows.gateway, rows.duration_ms, rows.retry_of, rows.retried_by, rows.client_agent,
    )  # fmt: skip
    query = select(*columns).where(
        rows.body_digest == row["body_digest"],
        rows.key_id == row["key_id"],
        rows.started_at.between(row["started_at"] - reach, row["started_at"] + reach),
    )
    return [dict(each) for each in connection.execute(query.order_by(rows.started_at).limit(limit)).mappings()]
