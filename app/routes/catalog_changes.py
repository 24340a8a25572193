"""`GET /api/catalog/changes`: how the providers' lists of models and prices have changed, as JSON or as an Atom feed.

It queries the database, so it needs a key unless PUBLIC_STATS is true, like statistics.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from flask import Blueprint, request

from app.config import MAX_NAME_CHARACTERS
from app.services.catalog_memory import (
    ATOM,
    CHANGE_KINDS,
    MAX_PAGE_CHANGES,
    ChangeFilter,
    encode_feed,
    select_changes_page,
)
from app.services.providers import PROVIDERS
from app.web import Response, choose_content_type, json_response, one_of, read_query

bp = Blueprint("catalog_changes", __name__)

DEFAULT_PAGE_CHANGES = 100

_JSON = "application/json"
_FORMATS = {"atom": ATOM, "json": _JSON}


class ChangesQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/catalog/changes`. A parameter that is None does not filter the changes.

    Attributes:
        since: changes after this time; it is not included, so that the newest `at` of an answer can be sent.
        gateway: the provider.
        model: the model's id at the provider.
        kinds: `kind` in the query: one or several.
        limit: the most changes of a page, DEFAULT_PAGE_CHANGES if None.
        cursor: `next_cursor` of the previous page.
        format: takes precedence over the Accept header.
    """

    since: datetime | None = None
    gateway: Annotated[str, one_of(PROVIDERS, any_case=True)] | None = None
    model: Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARACTERS)] | None = None
    kinds: tuple[Annotated[str, one_of(CHANGE_KINDS)], ...] | None = msgspec.field(name="kind", default=None)
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE_CHANGES)] | None = None
    cursor: str | None = None
    format: Annotated[str, one_of(_FORMATS)] | None = None


@bp.get("/api/catalog/changes")
def list_catalog_changes() -> Response:
    """Returns what was added to the providers' lists, removed from them, or changed in them, newest first."""
    query = read_query(ChangesQuery)
    wanted = ChangeFilter(query.since, query.gateway, query.model, query.kinds)
    page = select_changes_page(wanted, query.cursor, query.limit or DEFAULT_PAGE_CHANGES)
    headers = {"cache-control": "no-cache", "vary": "accept"}
    if choose_content_type(query.format, _FORMATS) == _JSON:
        return json_response(page, headers=headers)
    return Response(encode_feed(page, request.url), content_type=f"{ATOM}; charset=utf-8", headers=headers)
