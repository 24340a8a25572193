"""`/api/budgets`, the budgets with their use, and `/api/audit`, all changes and who made them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Annotated

import msgspec
from flask import Blueprint, g

from app.errors import BadRequest
from app.routes.keys import DEFAULT_PAGE_ROWS, Limit, NoQuery, read_json, respond
from app.services.administration import (
    AuditFilter,
    end_budget,
    raise_budget,
    select_audit_page,
    select_budget_page,
    select_budget_state,
)
from app.web import NO_STORE, Response, json_response, read_query

bp = Blueprint("budgets", __name__)


class BudgetsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/budgets`: `above` chooses budgets of which at least this many percent are charged."""

    above: Annotated[int, msgspec.Meta(ge=0, le=1_000)] | None = None
    limit: Limit | None = None
    cursor: str | None = None


class Raise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much to add to a budget in its current period alone, in its unit; below 0 to take an earlier raise back."""

    amount: Decimal


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of `/api/audit`. One that is None does not filter.

    Attributes:
        start, end: `from` (included) and `to` (excluded) in the query.
        object: what was changed, such as "key:4fGh2Kl9Pq" or "gateway".
        actor: who changed it, as the audit shows it.
        action: what was done, such as "key.create".
    """

    start: datetime | None = msgspec.field(name="from", default=None)
    end: datetime | None = msgspec.field(name="to", default=None)
    object: str | None = None
    actor: str | None = None
    action: str | None = None
    limit: Limit | None = None
    cursor: str | None = None

    def __post_init__(self) -> None:
        if self.start is not None and self.end is not None and self.start >= self.end:
            raise BadRequest(
                "`from` must be before `to`; `from` is included and `to` is not.",
                param="from",
                code="invalid_parameter",
            )


@bp.get("/api/budgets")
def list_budgets() -> Response:
    """Returns a page of the budgets that count, with their current periods."""
    query = read_query(BudgetsQuery)
    page = select_budget_page(above=query.above, cursor=query.cursor, limit=query.limit or DEFAULT_PAGE_ROWS)
    return json_response(page, headers=NO_STORE)


@bp.get("/api/budgets/<int:id>")
def show_budget(id: int) -> Response:
    """Returns a budget."""
    read_query(NoQuery)
    return respond("budget", select_budget_state(id))


@bp.post("/api/budgets/<int:id>/raise")
def raise_one_budget(id: int) -> Response:
    """Adds to the amount of a budget in its current period alone."""
    wanted = read_json(Raise)
    return respond("budget", raise_budget(g.key.id, id, wanted.amount))


@bp.delete("/api/budgets/<int:id>")
def delete_budget(id: int) -> Response:
    """Ends a budget, which then no longer counts."""
    read_query(NoQuery)
    found = select_budget_state(id)
    end_budget(g.key.id, id)
    return respond("budget", found, ended=True)


@bp.get("/api/audit")
def list_changes() -> Response:
    """Returns a page of changes, newest first."""
    query = read_query(AuditQuery)
    wanted = AuditFilter(query.object, query.actor, query.action, query.start, query.end)
    return json_response(select_audit_page(wanted, query.cursor, query.limit or DEFAULT_PAGE_ROWS), headers=NO_STORE)
