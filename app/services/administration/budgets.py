"""Lists budgets with their state, raises one for its current period, and ends one."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

import msgspec

from app.cursors import read_id_cursor
from app.db import Connection, read_connection, write_connection
from app.db.budgets import BudgetRow, select_budget, update_budget_ended, update_period_raised
from app.db.clock import select_now
from app.db.subjects import select_subjects
from app.errors import BadRequest, Conflict, NotFound
from app.services.administration.audit import record_change
from app.services.administration.limits import describe_terms
from app.services.administration.states import BudgetState, select_budget_states, select_state_page
from app.services.administration.terms import MAX_AMOUNT, describe_budget, normalize
from app.services.limits import get_period


class BudgetPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of budgets, in the order in which they were made; `next_cursor` is None on the last page."""

    object: Literal["list"] = "list"
    data: list[BudgetState]
    has_more: bool
    next_cursor: str | None


def select_budget_page(*, above: int | None, cursor: str | None, limit: int | None) -> BudgetPage:
    """Returns active budgets.

    Args:
        above: only budgets of which at least this percentage is charged.
        cursor: `next_cursor` of the previous page; None for the first page.
        limit: the most budgets per page; None for all of them.

    Raises:
        BadRequest: the cursor is not one that the gateway made.
        DatabaseError: the database is unavailable or slow.
    """
    after_id = read_id_cursor(cursor)
    with read_connection() as connection:
        asked = None if limit is None else limit + 1
        states = select_state_page(connection, above=above, after=after_id, limit=asked)
    has_more = limit is not None and len(states) > limit
    page = states if limit is None else states[:limit]
    return BudgetPage(data=page, has_more=has_more, next_cursor=str(page[-1].id) if has_more else None)


def select_budget_state(id: int) -> BudgetState:
    """Returns an active budget.

    Raises:
        NotFound: there is none with this id, or it has ended.
        DatabaseError: the database is unavailable or slow.
    """
    with read_connection() as connection:
        return _select_states(connection, [_find(connection, id, lock=False)])[id]


def raise_budget(actor: str, id: int, extra: Decimal) -> BudgetState:
    """Adds to the amount of a budget for its current period only, and returns the budget.

    Args:
        actor: who makes the change, for the audit.
        id: the budget.
        extra: the amount, in the budget's unit; below 0 to take back an earlier raise.

    Raises:
        NotFound: there is no such budget, or it has ended.
        BadRequest: the amount makes no sense.
        Conflict: the earlier raises add up to less than is to be taken back.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = _find(connection, id, lock=True)
        places = 12 if row.unit == "usd" else 0
        if not extra.is_finite() or not 0 < abs(extra) <= MAX_AMOUNT or extra != round(extra, places):
            raise BadRequest(
                f"The amount must be a number of {row.unit} other than 0, up to 10^15, with at most {places} decimal"
                " places.",
                param="amount",
            )
        period = get_period(row.time_window, row.timezone, row.first_day, select_now(connection).timestamp())
        total = update_period_raised(connection, id, period.start, period.end, extra)
        if total < 0:
            raise Conflict(
                f"Only {normalize(total - extra):f} was added to this budget in its current period, so no more than"
                " that can be taken back.",
                param="amount",
            )
        state = _select_states(connection, [row])[id]
        name = _name(state)
        before, after = [{"name": name, "extra": f"{normalize(each):f}"} for each in (total - extra, total)]
        record_change(connection, actor, "budget.raise", f"budget:{id}", before, after)
        return state


def end_budget(actor: str, id: int) -> None:
    """Ends a budget, so that it no longer counts.

    Raises:
        NotFound: there is no such budget, or it has ended already.
        DatabaseError: the database is unavailable or slow.
    """
    with write_connection() as connection:
        row = _find(connection, id, lock=True)
        before = {"name": _name(_select_states(connection, [row])[id])} | describe_terms(row)
        update_budget_ended(connection, id)
        record_change(connection, actor, "budget.end", f"budget:{id}", before, None)


def _find(connection: Connection, id: int, *, lock: bool) -> BudgetRow:
    row = select_budget(connection, id, lock=lock) if id < 2**63 else None  # PostgreSQL has no larger ids.
    if row is None or row.ended_at is not None:
        reason = "There is no budget" if row is None else "This budget has ended and does not count any more:"
        raise NotFound(
            f"{reason} {id}. `bin/gateway budgets list` or GET /api/budgets shows those that count.",
            param="budget",
            code="unknown_budget",
        )
    return row


def _name(state: BudgetState) -> str:
    return f"{describe_budget(state.amount, state.unit, state.window)} of {state.of} {state.name}"


def _select_states(connection: Connection, rows: list[BudgetRow]) -> dict[int, BudgetState]:
    subjects = select_subjects(connection, {row.subject_id for row in rows})
    names = {id: (subject.kind, subject.name) for id, subject in subjects.items()}
    return select_budget_states(connection, rows, names)
