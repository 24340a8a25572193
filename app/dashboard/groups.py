"""Groups of holders, the limits of the whole gateway, and budgets: operators change them here."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from flask import g, request

from app.dashboard.frame import pages, read_form, require_operator, show
from app.dashboard.limit_forms import decode, read_limits, write_limits
from app.errors import BadRequest, GatewayError
from app.layout import redirect_to
from app.services.administration import (
    GroupChanges,
    GroupView,
    LimitChanges,
    NewGroup,
    change_gateway_limits,
    change_group,
    create_group,
    delete_group,
    end_budget,
    raise_budget,
    select_budget_state,
    select_gateway_limits,
    select_group,
    select_groups,
)
from app.web import Response

_KEYS, _HERE = "dashboard/keys", "dashboard/groups"


@pages.get("/dashboard/groups")
def show_groups() -> Response:
    """Shows all groups, and the limits of the whole gateway."""
    require_operator()
    return show("groups.html", _KEYS, groups=select_groups(), gateway=select_gateway_limits())


@pages.get("/dashboard/groups/new")
def show_new_group() -> Response:
    """Shows the form for a new group."""
    require_operator()
    return _show_group(None, write_limits(None) | {"name": ""})


@pages.post("/dashboard/groups/new")
def make_group() -> Response:
    """Makes a group."""
    require_operator()
    form = read_form()
    try:
        made = create_group(g.key.id, decode({"name": form.get("name", "")} | read_limits(form), NewGroup))
    except GatewayError as error:
        return _show_group(None, write_limits(None) | {"name": ""} | form, error)
    return redirect_to(f"{_HERE}/{made.id}?done=made")


@pages.get("/dashboard/groups/<id>")
def show_group(id: str) -> Response:
    """Shows a group with its limits and the use of its budgets."""
    require_operator()
    group = select_group(id)
    return _show_group(group, write_limits(group) | {"name": group.name})


@pages.post("/dashboard/groups/<id>")
def change_one_group(id: str) -> Response:
    """Changes a group."""
    require_operator()
    form = read_form()
    try:
        change_group(g.key.id, id, decode({"name": form.get("name", "")} | read_limits(form), GroupChanges))
    except GatewayError as error:
        group = select_group(id)
        return _show_group(group, write_limits(group) | {"name": group.name} | form, error)
    return redirect_to(f"{_HERE}/{id}?done=changed")


@pages.post("/dashboard/groups/<id>/delete")
def delete_one_group(id: str) -> Response:
    """Deletes a group that has no holders."""
    require_operator()
    delete_group(g.key.id, id)
    return redirect_to(_HERE)


@pages.get("/dashboard/limits")
def show_gateway_limits() -> Response:
    """Shows the limits that bind all keys together, including operators' keys."""
    require_operator()
    gateway = select_gateway_limits()
    return _show("limits.html", None, limits=gateway, form=write_limits(gateway))


@pages.post("/dashboard/limits")
def change_limits_of_gateway() -> Response:
    """Changes them."""
    require_operator()
    form = read_form()
    try:
        change_gateway_limits(g.key.id, decode(read_limits(form), LimitChanges))
    except GatewayError as error:
        gateway = select_gateway_limits()
        return _show("limits.html", error, limits=gateway, form=write_limits(gateway) | form)
    return redirect_to("dashboard/limits?done=changed")


@pages.get("/dashboard/budgets/<int:id>")
def show_budget(id: int) -> Response:
    """Shows a budget with its current period, and asks for the amount to add."""
    require_operator()
    return _show("budget.html", None, budget=select_budget_state(id))


@pages.post("/dashboard/budgets/<int:id>/raise")
def raise_one(id: int) -> Response:
    """Adds to a budget for its current period only."""
    require_operator()
    text = read_form().get("amount", "")
    try:
        raise_budget(g.key.id, id, _read_amount(text))
    except GatewayError as error:
        return _show("budget.html", error, budget=select_budget_state(id))
    return redirect_to(f"dashboard/budgets/{id}?done=raised")


@pages.post("/dashboard/budgets/<int:id>/end")
def end_one(id: int) -> Response:
    """Ends a budget, so that it no longer counts."""
    require_operator()
    end_budget(g.key.id, id)
    return redirect_to(f"{_KEYS}?done=ended")


def _show_group(group: GroupView | None, form: Mapping[str, str], error: GatewayError | None = None) -> Response:
    return _show("group.html", error, group=group, form=form)


def _show(template: str, error: GatewayError | None, **values: Any) -> Response:
    values["done"] = request.args.get("done", "")
    if error is None:
        return show(template, _KEYS, error="", **values)
    return show(template, _KEYS, error=error.message, status=error.status, headers=error.headers(), **values)


def _read_amount(text: str) -> Decimal:
    try:
        return Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise BadRequest("The amount must be a number, such as 5 or 2.50.", param="amount") from None
