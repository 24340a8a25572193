"""Changes the limits of a subject, and writes the old and new ones to the audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import UNSET, UnsetType

from app.config import MAX_NAME_CHARACTERS
from app.db import Connection
from app.db.budgets import BudgetRow, insert_budget, select_budgets, update_budget, update_budget_ended
from app.db.subjects import SubjectRow, select_subject, update_subject
from app.errors import BadRequest, Conflict
from app.services.administration.audit import record_change
from app.services.administration.changes import PLAIN_LIMITS, LimitChanges
from app.services.administration.earlier import charge_earlier_requests
from app.services.administration.terms import BudgetTerms, normalize, parse_budget, validate_budget

_MAX_PATTERNS = 1_000


def apply_limits(
    connection: Connection,
    actor: str,
    subject: SubjectRow,
    changes: LimitChanges,
    *,
    columns: Mapping[str, Any] | None = None,
    keep_budgets: bool = False,
    is_new: bool = False,
) -> SubjectRow:
    """Changes a subject and writes the audit; returns the changed subject.

    Args:
        connection: in a transaction that has locked the subject, so that no other change can interfere.
        actor: who makes the change.
        subject: the subject before the change.
        changes: the changes of its limits.
        columns: further columns to set, `name` and `group_id`.
        keep_budgets: whether budgets that `changes` does not name stay.
        is_new: whether the subject was made in this transaction.

    Raises:
        BadRequest: a limit makes no sense.
        Conflict: the name is taken.
    """
    before = None if is_new else describe_subject(connection, subject)
    values = dict(columns or {})
    values |= {name: value for name in PLAIN_LIMITS if (value := getattr(changes, name)) is not UNSET}
    if not isinstance(changes.models, UnsetType):
        values["models"] = _validate_patterns(changes.models)
    if values and not update_subject(connection, subject.id, values):
        raise make_name_conflict(subject.kind, str(values["name"]))
    if not isinstance(changes.budgets, UnsetType):
        _apply_budgets(connection, subject.id, changes.budgets, keep_budgets)
    now = select_subject(connection, id=subject.id, lock=False)
    assert now is not None
    action = "create" if is_new else "change"
    name = "gateway" if subject.kind == "gateway" else f"{subject.kind}:{subject.id}"
    record_change(connection, actor, f"{subject.kind}.{action}", name, before, describe_subject(connection, now))
    return now


def _validate_patterns(patterns: tuple[str, ...]) -> list[str]:
    if len(patterns) > _MAX_PATTERNS:
        raise BadRequest(f"models has {len(patterns)} patterns; at most {_MAX_PATTERNS} are allowed.", param="models")
    for pattern in patterns:
        if not pattern or len(pattern) > MAX_NAME_CHARACTERS or not pattern.isprintable() or pattern.strip() != pattern:
            raise BadRequest(
                f"A pattern in models must have 1 to {MAX_NAME_CHARACTERS} printable characters, and no space at its"
                " ends.",
                param="models",
            )
        if "/" not in pattern and "*" not in pattern:
            raise BadRequest(
                f"The pattern {pattern!r} in models can match nothing, because it is compared with provider/model id."
                f" Write '*/{pattern}' for that model at all providers, or '{pattern}/*' for all models of a provider.",
                param="models",
            )
    return list(dict.fromkeys(patterns))


def _apply_budgets(connection: Connection, subject_id: str, wanted: tuple[BudgetTerms | str, ...], keep: bool) -> None:
    """Makes the budgets match `wanted`. A budget whose amount or warnings change keeps its charges."""
    left: dict[tuple[str, str], BudgetRow] = {
        (row.unit, row.time_window): row for row in select_budgets(connection, [subject_id], lock=True)
    }
    seen: set[tuple[str, str]] = set()
    for each in wanted:
        terms = parse_budget(each) if isinstance(each, str) else validate_budget(each)
        if terms.slot in seen:
            raise BadRequest(
                f"budgets has two of {terms.unit} for the window {terms.window}. Keep one.", param="budgets"
            )
        seen.add(terms.slot)
        _apply_budget(connection, subject_id, left.pop(terms.slot, None), terms)
    for row in () if keep else left.values():
        update_budget_ended(connection, row.id)


def _apply_budget(connection: Connection, subject_id: str, row: BudgetRow | None, terms: BudgetTerms) -> None:
    given = {
        "timezone": terms.timezone,
        "first_day": terms.first_day,
        "warn_percents": terms.warn_percents
        if isinstance(terms.warn_percents, UnsetType)
        else list(terms.warn_percents),
    }
    kept = {"timezone": "UTC", "first_day": 1, "warn_percents": []}
    if row is not None:
        kept = {name: getattr(row, name) for name in kept}
    values = {"amount": terms.amount, **kept} | {name: value for name, value in given.items() if value is not UNSET}
    if row is not None and all(getattr(row, name) == values[name] for name in ("timezone", "first_day")):
        if any(getattr(row, name) != value for name, value in values.items()):
            update_budget(connection, row.id, values)
        return
    if row is not None:
        update_budget_ended(connection, row.id)  # The new budget has other periods.
    key = {"subject_id": subject_id, "unit": terms.unit, "time_window": terms.window}
    charge_earlier_requests(connection, insert_budget(connection, {**key, **values}))


def describe_subject(connection: Connection, row: SubjectRow) -> dict[str, Any]:
    """Returns a subject with its budgets as JSON values, for the audit."""
    group = None if row.group_id is None else select_subject(connection, id=row.group_id, lock=False)
    described = {"name": row.name, "group": None if group is None else group.name, "models": row.models}
    described |= {name: getattr(row, name) for name in PLAIN_LIMITS}
    return described | {"budgets": [describe_terms(budget) for budget in select_budgets(connection, [row.id])]}


def describe_terms(row: BudgetRow) -> dict[str, Any]:
    """Returns the terms of a budget as JSON values, for the audit."""
    return {
        "id": row.id,
        "unit": row.unit,
        "window": row.time_window,
        "amount": f"{normalize(row.amount):f}",
        "timezone": row.timezone,
        "first_day": row.first_day,
        "warn_percents": row.warn_percents,
    }


def validate_name(name: str) -> str:
    """Returns the name of a key, a holder or a group.

    Raises:
        BadRequest: it is empty, too long, or not printable.
    """
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise BadRequest(f"A name must have 1 to {MAX_NAME_CHARACTERS} printable characters.", param="name")
    return name


def make_name_conflict(kind: str, name: str, advice: str = "") -> Conflict:
    """Returns the error for a name that another subject has."""
    message = f"There is a {kind} {name!r} already. Choose another name. {advice}".rstrip()
    return Conflict(message, param="name", code="name_taken")
