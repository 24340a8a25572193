"""Aliases: operators make, change and delete the names that stand for models; routing.py shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

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
)
from app.services.aliases import AliasTarget, warn_of_alias
from app.web import Response

_HERE = "dashboard/routing"
_SORTS = {
    "": "as listed, or by weight",
    "price": "cheapest first",
    "latency": "quickest first",
    "throughput": "fastest first",
}


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
