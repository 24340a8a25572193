"""`/api/holders`: operators make, rename, change, list and delete holders of keys."""

from __future__ import annotations

import msgspec
from flask import Blueprint, g

from app.routes.keys import (
    DEFAULT_PAGE_ROWS,
    Limit,
    NoQuery,
    read_changes,
    read_json,
    respond,
    warn_of_patterns,
)
from app.services.administration import (
    HolderPatch,
    NewHolder,
    change_holder,
    create_holder,
    delete_holder,
    select_holder,
    select_holders_page,
)
from app.web import NO_STORE, Response, json_response, read_query

bp = Blueprint("holders", __name__)


class HoldersQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/holders`: only the holders of a group, by name or id."""

    group: str | None = None
    limit: Limit | None = None
    cursor: str | None = None


@bp.get("/api/holders")
def list_holders() -> Response:
    """Returns a page of holders, by name, with their keys, limits and use."""
    query = read_query(HoldersQuery)
    page = select_holders_page(group=query.group, cursor=query.cursor, limit=query.limit or DEFAULT_PAGE_ROWS)
    return json_response(page, headers=NO_STORE)


@bp.post("/api/holders")
def make_holder() -> Response:
    """Makes a holder, who has no key yet."""
    wanted = read_json(NewHolder)
    warnings = warn_of_patterns(wanted.models)
    return respond("holder", create_holder(g.key.id, wanted), status=201, warnings=warnings)


@bp.get("/api/holders/<path:holder>")
def show_holder(holder: str) -> Response:
    """Returns a holder, by its id or its name."""
    read_query(NoQuery)
    return respond("holder", select_holder(holder))


@bp.patch("/api/holders/<path:holder>")
def patch_holder(holder: str) -> Response:
    """Changes a holder: fields that are absent stay, and null takes a limit away."""
    changes = read_changes(HolderPatch)
    warnings = warn_of_patterns(changes.models)
    return respond("holder", change_holder(g.key.id, holder, changes), warnings=warnings)


@bp.delete("/api/holders/<path:holder>")
def remove_holder(holder: str) -> Response:
    """Deletes a holder whose keys are all revoked, with its budgets."""
    read_query(NoQuery)
    return respond("holder", delete_holder(g.key.id, holder), deleted=True)
