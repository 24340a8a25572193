"""Holders: their keys, their costs, and their limits, which bind all of their keys together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import g, request

from app.dashboard.frame import pages, read_form, require_operator, show
from app.dashboard.limit_forms import decode, read_limits, write_limits
from app.errors import GatewayError
from app.layout import redirect_to
from app.services.administration import (
    HolderPatch,
    HolderView,
    change_holder,
    delete_holder,
    select_groups,
    select_holder,
    select_holders_page,
)
from app.web import Response

PAGE_ROWS = 50
_KEYS, _HERE = "dashboard/keys", "dashboard/holders"


@pages.get("/dashboard/holders")
def show_holders() -> Response:
    """Shows all holders by name; with `name`, sends to the one of that name."""
    require_operator()
    if request.args.get("name"):
        return redirect_to(f"{_HERE}/{select_holder(request.args['name']).id}")
    group = request.args.get("group") or None
    page = select_holders_page(group=group, cursor=request.args.get("cursor") or None, limit=PAGE_ROWS)
    return show("holders.html", _KEYS, page=page, group=group)


@pages.get("/dashboard/holders/<id>")
def show_holder(id: str) -> Response:
    """Shows a holder with its keys, limits and budgets."""
    require_operator()
    holder = select_holder(id)
    return _show_one(holder, _write(holder))


@pages.post("/dashboard/holders/<id>")
def change_one_holder(id: str) -> Response:
    """Changes a holder."""
    require_operator()
    form = read_form()
    try:
        values: dict[str, Any] = {"name": form.get("name", "")} | read_limits(form)
        if "group" in form:
            values["group"] = form["group"] or None
        change_holder(g.key.id, id, decode(values, HolderPatch))
    except GatewayError as error:
        holder = select_holder(id)
        return _show_one(holder, _write(holder) | form, error)
    return redirect_to(f"{_HERE}/{id}?done=changed")


@pages.post("/dashboard/holders/<id>/delete")
def delete_one_holder(id: str) -> Response:
    """Deletes a holder whose keys are all revoked."""
    require_operator()
    try:
        delete_holder(g.key.id, id)
    except GatewayError as error:
        holder = select_holder(id)
        return _show_one(holder, _write(holder), error)
    return redirect_to(_HERE)


def _write(holder: HolderView) -> dict[str, str]:
    return {"name": holder.name, "group": holder.group or ""} | write_limits(holder)


def _show_one(holder: HolderView, form: Mapping[str, str], error: GatewayError | None = None) -> Response:
    values = {"holder": holder, "form": form, "groups": select_groups(), "done": request.args.get("done", "")}
    if error is None:
        return show("holder.html", _KEYS, error="", **values)
    return show("holder.html", _KEYS, error=error.message, status=error.status, headers=error.headers(), **values)
