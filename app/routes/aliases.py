"""`/api/aliases`: operators give names of their own to models."""

from __future__ import annotations

from flask import Blueprint, g

from app.routes.keys import NoQuery, read_changes, read_json, respond
from app.runtime import get_component
from app.services.alias_administration import (
    AliasChanges,
    AliasView,
    NewAlias,
    change_alias,
    create_alias,
    remove_alias,
    select_alias_view,
    select_alias_views,
)
from app.services.aliases import Aliases, AliasTarget, warn_of_alias
from app.web import NO_STORE, Response, json_response, read_query

bp = Blueprint("aliases", __name__)


@bp.get("/api/aliases")
def list_aliases() -> Response:
    """Returns all aliases, in order of name."""
    read_query(NoQuery)
    return json_response({"object": "list", "data": select_alias_views(), "has_more": False}, headers=NO_STORE)


@bp.post("/api/aliases")
def make_alias() -> Response:
    """Makes an alias."""
    return _respond(create_alias(g.key.id, read_json(NewAlias)), status=201)


@bp.get("/api/aliases/<path:name>")
def show_alias(name: str) -> Response:
    """Returns an alias, by its name in any case."""
    read_query(NoQuery)
    return respond("alias", select_alias_view(name))


@bp.patch("/api/aliases/<path:name>")
def patch_alias(name: str) -> Response:
    """Changes an alias: fields that are absent stay."""
    return _respond(change_alias(g.key.id, name, read_changes(AliasChanges)))


@bp.delete("/api/aliases/<path:name>")
def delete_alias(name: str) -> Response:
    """Deletes an alias; the response has it as it was."""
    read_query(NoQuery)
    view = remove_alias(g.key.id, name)
    get_component(Aliases).refresh()
    return respond("alias", view, deleted=True)


def _respond(view: AliasView, *, status: int = 200) -> Response:
    # This worker has the change at once, the others within seconds.
    get_component(Aliases).refresh()
    targets = [AliasTarget(target.name, target.weight) for target in view.targets]
    return respond("alias", view, status=status, warnings=warn_of_alias(view.name, targets))
