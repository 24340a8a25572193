"""The record of one request, found by any of its ids."""

from __future__ import annotations

from typing import Any, Literal
from uuid import UUID

import msgspec

from app.db import read_connection
from app.db.activity_by_id import select_activity_by_foreign_id, select_activity_by_request_id
from app.errors import NotFound
from app.services.reports.records import make_record
from app.services.reports.retries import RetryChain, select_retry_chain

# A client that sends one id with many requests gets the newest record and the gateway's ids of this many more.
MAX_OTHERS = 20

FoundBy = Literal["request_id", "upstream_request_id", "client_request_id"]


class RequestStory(msgspec.Struct, frozen=True, kw_only=True):
    """The record of one request, with its retries.

    Attributes:
        found_by: which of its ids was given.
        data: the columns of the table activity by name.
        others: the gateway's ids of the next older requests with the same id of a provider or client.
        retries: all attempts of the client at this request; None if it sent it once, or in another way than an SDK.
    """

    object: Literal["activity"] = "activity"
    found_by: FoundBy
    data: dict[str, Any]
    others: list[UUID]
    retries: RetryChain | None


def select_request_story(given: str, key_id: str | None) -> RequestStory:
    """Returns the record of a request.

    Args:
        given: the gateway's id of the request, the provider's, or the `x-request-id` that the client sent.
        key_id: the key that the record must belong to; None for the operator.

    Raises:
        NotFound: there is no such record, or it belongs to another key.
        DatabaseError: the database is unavailable or slow.
    """
    # PostgreSQL's text cannot store NUL, and recorded ids are printable.
    found_by, rows = _select(given, key_id) if given.isprintable() else (None, [])
    if found_by is None:
        raise NotFound(
            f"There is no record of a request {given[:100]!r}. Give the x-request-id of a response, the provider's id "
            "from x-upstream-request-id, or the x-request-id that you sent. Only inference requests are recorded, "
            "about a second after they end. A key finds only its own records, and records are deleted after "
            "RETENTION_DAYS.",
            code="unknown_request",
            param="request_id",
        )
    return RequestStory(
        found_by=found_by,
        data=make_record(rows[0]),
        others=[row["request_id"] for row in rows[1:]],
        retries=select_retry_chain(rows[0]),
    )


def _select(given: str, key_id: str | None) -> tuple[FoundBy | None, list[dict[str, Any]]]:
    columns: tuple[FoundBy, FoundBy] = ("upstream_request_id", "client_request_id")
    with read_connection() as connection:
        own_id = _parse_uuid(given)
        if own_id is not None:
            rows = select_activity_by_request_id(connection, own_id, key_id)
            if rows:
                return "request_id", rows
        for column in columns:
            rows = select_activity_by_foreign_id(connection, column, given, key_id, 1 + MAX_OTHERS)
            if rows:
                return column, rows
    return None, []


def _parse_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
