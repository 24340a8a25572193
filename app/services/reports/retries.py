"""The cost of clients' retries: of one request, and of all by the client that sent them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from uuid import UUID

import msgspec

from app.db import read_connection
from app.db.clock import select_now
from app.db.retries import RepeatedSums, select_repeated_sums, select_same_body
from app.errors import BadRequest
from app.services.reports.totals import normalize_usd

DEFAULT_DAYS = 7
MAX_DAYS = 366

# An attempt takes minutes and SDKs send a handful of them.
_REACH = timedelta(hours=2)
_MAX_SAME_BODY = 500


class ChainAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt of a client at the same request.

    Attributes:
        client_retry: how many retries the client had sent before it.
        is_this: whether it is the request that was asked for.
    """

    request_id: UUID
    started_at: datetime
    client_retry: int
    gateway: str | None
    status: int
    outcome: str
    duration_ms: float | None
    cost_usd: Decimal | None
    cost_kind: str
    is_this: bool


class RetryChain(msgspec.Struct, frozen=True, kw_only=True):
    """A request of an SDK with its retries.

    Attributes:
        attempts: the oldest first. The client used the answer of the last one.
        client_agent: the client's User-Agent; None if it sent none.
        repeated_cost: USD, what the attempts before the last are known to have cost, exactly or estimated.
        unpriced_attempts: those of them whose cost is not known.
    """

    attempts: list[ChainAttempt]
    client_agent: str | None
    repeated_cost: Decimal
    unpriced_attempts: int


class RetryingClient(msgspec.Struct, frozen=True, kw_only=True):
    """A client, by its key and its name, and what the attempts cost that its retries repeated.

    Attributes:
        key: the id of its gateway key.
        client_agent: its User-Agent; None if it sent none.
        repeated_attempts: attempts that a retry repeated.
        repeated_cost: USD, what they cost exactly.
        estimated_cost: USD, what they cost by estimate.
        unpriced_attempts: those that were sent and whose cost is not known.
        outcomes: how they ended: outcome → attempts. With `client_gone` the client gave up too early.
    """

    key: str
    client_agent: str | None
    repeated_attempts: int
    repeated_cost: Decimal
    estimated_cost: Decimal
    unpriced_attempts: int
    outcomes: dict[str, int]


class RetryReport(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of retries in a window of time.

    Attributes:
        start, end: `from` (included) and `to` (excluded) in JSON.
        key: the key whose requests these are; None for all keys.
        repeated_attempts, repeated_cost, estimated_cost, unpriced_attempts: of all clients, as in RetryingClient.
        clients: the most costly first.
    """

    object: Literal["retries"] = "retries"
    start: datetime = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    key: str | None
    repeated_attempts: int
    repeated_cost: Decimal
    estimated_cost: Decimal
    unpriced_attempts: int
    clients: list[RetryingClient]


def select_retry_report(key_id: str | None, start: datetime | None = None, end: datetime | None = None) -> RetryReport:
    """Returns the cost of retries whose first attempts are still recorded.

    Args:
        key_id: the key, or None for all keys.
        start: by default DEFAULT_DAYS before `end`.
        end: by default now, by PostgreSQL's clock.

    Raises:
        BadRequest: `start` is not before `end`, or more than MAX_DAYS before it.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        end = end or select_now(connection)
        start = start or end - timedelta(days=DEFAULT_DAYS)
        if not timedelta(0) < end - start <= timedelta(days=MAX_DAYS):
            raise BadRequest(
                f"`from` must be before `to`, by at most {MAX_DAYS} days.", param="from", code="invalid_parameter"
            )
        sums = select_repeated_sums(connection, start, end, key_id)
    clients = _make_clients(sums)
    return RetryReport(
        start=start,
        end=end,
        key=key_id,
        repeated_attempts=sum(client.repeated_attempts for client in clients),
        repeated_cost=sum((client.repeated_cost for client in clients), Decimal()),
        estimated_cost=sum((client.estimated_cost for client in clients), Decimal()),
        unpriced_attempts=sum(client.unpriced_attempts for client in clients),
        clients=clients,
    )


def _make_clients(sums: Sequence[RepeatedSums]) -> list[RetryingClient]:
    by_client: dict[tuple[str, str | None], list[RepeatedSums]] = defaultdict(list)
    for row in sums:
        by_client[row.key_id, row.client_agent].append(row)
    clients = [
        RetryingClient(
            key=key,
            client_agent=agent,
            repeated_attempts=sum(row.attempts for row in rows),
            repeated_cost=normalize_usd(sum((row.exact for row in rows), Decimal())),
            estimated_cost=normalize_usd(sum((row.estimated for row in rows), Decimal())),
            unpriced_attempts=sum(row.unpriced for row in rows),
            outcomes={row.outcome: row.attempts for row in sorted(rows, key=lambda row: -row.attempts)},
        )
        for (key, agent), rows in by_client.items()
    ]
    return sorted(
        clients,
        key=lambda each: (-(each.repeated_cost + each.estimated_cost), -each.repeated_attempts, each.key),
    )


def select_retry_chain(record: dict[str, Any]) -> RetryChain | None:
    """Returns all attempts at the request of a record; None if it is not a retry and no retry repeats it.

    Args:
        record: the columns of activity by name.

    Raises:
        DatabaseError: the database is unavailable or slow.
    """
    if record["retry_of"] is None and record["retried_by"] is None:
        return None
    with read_connection() as connection:
        same = select_same_body(connection, record, _REACH, _MAX_SAME_BODY)
    return make_chain({row["request_id"]: row for row in same}, record["request_id"])


def make_chain(rows: dict[UUID, dict[str, Any]], this: UUID) -> RetryChain | None:
    """Returns the chain of links that includes `this`, from rows by request_id; None if it is not among them."""
    if this not in rows:
        return None
    found = [this]
    while (before := rows[found[0]]["retry_of"]) in rows and before not in found:
        found.insert(0, before)
    while (after := rows[found[-1]]["retried_by"]) in rows and after not in found:
        found.append(after)
    repeated = [rows[each] for each in found[:-1]]
    costs = [row["cost_usd"] for row in repeated if row["cost_usd"] is not None]
    return RetryChain(
        attempts=[_make_attempt(rows[each], this) for each in found],
        client_agent=next((agent for each in reversed(found) if (agent := rows[each]["client_agent"])), None),
        repeated_cost=normalize_usd(sum(costs, Decimal())),
        unpriced_attempts=len(repeated) - len(costs),
    )


def _make_attempt(row: dict[str, Any], this: UUID) -> ChainAttempt:
    cost = row["cost_usd"]
    return ChainAttempt(
        request_id=row["request_id"],
        started_at=row["started_at"],
        client_retry=row["client_retry"] or 0,
        gateway=row["gateway"],
        status=row["status"],
        outcome=row["outcome"],
        duration_ms=row["duration_ms"],
        cost_usd=None if cost is None else normalize_usd(cost),
        cost_kind=row["cost_kind"],
        is_this=row["request_id"] == this,
    )
