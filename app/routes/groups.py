"""`/api/groups`, whose holders share limits, and `/api/limits`, the limits of the whole gateway."""

from __future__ import annotations

from flask import Blueprint, g

from app.routes.keys import NoQuery, read_changes, read_json, respond, warn_of_patterns
from app.services.administration import (
    GroupChanges,
    LimitChanges,
    NewGroup,
    change_gateway_limits,
    change_group,
    create_group,
    delete_group,
    select_gateway_limits,
    select_group,
    select_groups,
)
from app.web import NO_STORE, Response, json_response, read_query

bp = Blueprint("groups", __name__)


@bp.get("/api/groups")
def list_groups() -> Response:
    """Returns all groups, by name."""
    read_query(NoQuery)
    return json_response({"object": "list", "data": select_groups(), "has_more": False}, headers=NO_STORE)


@bp.post("/api/groups")
def make_group() -> Response:
    """Makes a group."""
    wanted = read_json(NewGroup)
    warnings = warn_of_patterns(wanted.models)
    return respond("group", create_group(g.key.id, wanted), status=201, warnings=warnings)


@bp.get("/api/groups/<path:group>")
def show_group(group: str) -> Response:
    """Returns a group, by its id or its name."""
    read_query(NoQuery)
    return respond("group", select_group(group))


@bp.patch("/api/groups/<path:group>")
def patch_group(group: str) -> Response:
    """Changes a group: fields that are absent stay, and null takes a limit away."""
    changes = read_changes(GroupChanges)
    warnings = warn_of_patterns(changes.models)
    return respond("group", change_group(g.key.id, group, changes), warnings=warnings)


@bp.delete("/api/groups/<path:group>")
def remove_group(group: str) -> Response:
    """Deletes a group that has no holders, with its budgets."""
    read_query(NoQuery)
    found = select_group(group)
    delete_group(g.key.id, found.id)
    return respond("group", found, deleted=True)


@bp.get("/api/limits")
def show_limits() -> Response:
    """Returns the limits of the whole gateway."""
    read_query(NoQuery)
    return respond("limits", select_gateway_limits())


@bp.patch("/api/limits")
def patch_limits() -> Response:
    """Changes the limits of the whole gateway, by which operators' keys are bound too."""
    changes = read_changes(LimitChanges)
    warnings = warn_of_patterns(changes.models)
    return respond("limits", change_gateway_limits(g.key.id, changes), warnings=warnings)
