"""Routing: the names that operators give to models, which models each stands for, and how healthy those are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from flask import g, request

from app.dashboard.frame import pages, read_form, require_operator, show
from app.dashboard.limit_forms import decode
from app.errors import BadRequest, GatewayError
from app.layout import redirect_to
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
from app.services.aliases import AliasTarget, find_candidates, warn_of_alias
from app.services.offers import Offer, make_offer
from app.services.routing import get_avoided_s
from app.web import Response

_HERE = "dashboard/routing"
_SORTS = {
    "": "as listed, or by weight",
    "price": "cheapest first",
    "latency": "quickest first",
    "throughput": "fastest first",
}


class _Target(NamedTuple):
    """A target of an alias, and who serves it now: an offer of each provider, none of which may be known yet."""

    name: str
    weight: float | None
    offers: list[Offer]


@pages.get("/dashboard/routing")
def show_routing() -> Response:
    """Shows all aliases with their targets."""
    require_operator()
    aliases = [(view, _find_targets(view)) for view in select_alias_views()]
    return show("routing.html", _HERE, aliases=aliases, sorts=_SORTS, get_avoided_s=get_avoided_s)


@pages.get("/dashboard/routing/one")
def show_alias() -> Response:
    """Shows the form of an alias; without `name`, that of a new one."""
    require_operator()
    name = request.args.get("name", "")
    return _show_one(select_alias_view(name) if name else None)


@pages.post("/dashboard/routing/one")
def save_alias() -> Response:
    """Makes an alias, or changes the one that `old` names."""
    require_operator()
    form = read_form()
    old = form.get("old", "")
    try:
        values = _read(form)
        if old:
            change_alias(g.key.id, old, decode(values, AliasChanges))
        else:
            create_alias(g.key.id, decode(values | {"name": form.get("name", "")}, NewAlias))
    except GatewayError as error:
        return _show_one(select_alias_view(old) if old else None, form, error)
    return redirect_to(_HERE)


@pages.post("/dashboard/routing/remove")
def remove_one_alias() -> Response:
    """Deletes an alias."""
    require_operator()
    remove_alias(g.key.id, read_form().get("name", ""))
    return redirect_to(_HERE)


def _find_targets(view: AliasView) -> list[_Target]:
    found = []
    for target in view.targets:
        candidates = find_candidates([AliasTarget(target.name, target.weight)])
        offers = [make_offer(each.provider, each.model) for each in candidates if each.model is not None]
        found.append(_Target(target.name, target.weight, offers))
    return found


def _read(form: Mapping[str, str]) -> dict[str, Any]:
    targets = []
    for line in form.get("targets", "").splitlines():
        name, _, weight = line.strip().partition(" ")
        if name:
            targets.append({"name": name} | ({"weight": _read_weight(weight)} if weight.strip() else {}))
    try:
        overrides = json.loads(form.get("overrides", "").strip() or "{}")
    except ValueError:
        raise BadRequest('The fields must be a JSON object, such as {"temperature": 0}.', param="overrides") from None
    return {"targets": targets, "sort": form.get("sort") or None, "overrides": overrides}


def _read_weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadRequest(
            f"The weight {text.strip()!r} is not a number. Write 'provider/model 3'.", param="targets"
        ) from None


def _write(alias: AliasView | None) -> dict[str, str]:
    if alias is None:
        return {"name": "", "targets": "", "sort": "", "overrides": ""}
    lines = [each.name if each.weight is None else f"{each.name} {each.weight:g}" for each in alias.targets]
    overrides = json.dumps(alias.overrides) if alias.overrides else ""
    return {"name": alias.name, "targets": "\n".join(lines), "sort": alias.sort or "", "overrides": overrides}


def _show_one(
    alias: AliasView | None, form: Mapping[str, str] | None = None, error: GatewayError | None = None
) -> Response:
    targets = [] if alias is None else [AliasTarget(each.name, each.weight) for each in alias.targets]
    values = {
        "alias": alias,
        "form": _write(alias) | dict(form or {}),
        "sorts": _SORTS,
        "warnings": [] if alias is None else warn_of_alias(alias.name, targets),
    }
    if error is None:
        return show("alias.html", _HERE, error="", **values)
    return show("alias.html", _HERE, error=error.message, status=error.status, headers=error.headers(), **values)
