"""Keys, holders and groups in the form for operators: with their limits and the state of their budgets."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec

from app.db import Connection
from app.db.budgets import select_budgets
from app.db.key_costs import select_holder_costs
from app.db.keys import KeyRow, select_keys_of_holders
from app.db.last_used import select_last_used
from app.db.subjects import SubjectRow, select_subjects
from app.errors import Conflict
from app.services.administration.states import BudgetState, select_budget_states
from app.services.administration.terms import normalize


class LimitsView(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a subject; None and [] mean no limit. Fields that can be changed have the names of LimitChanges."""

    models: list[str] = []
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    max_output_tokens: int | None = None
    budgets: list[BudgetState] = []


class KeyView(LimitsView, frozen=True, kw_only=True):
    """A key, never its secret. Its limits are those of its holder, whose other keys share them.

    Attributes:
        last_four: the last four characters of the key.
        holder, group: the name of its holder, and of the holder's group; None without any.
        is_operator: whether it has all rights; then only the limits of the gateway apply.
        expires_at: from when on it does not work; None if it never expires.
        replaced_by: the id of the key that it was rotated to.
        last_used_at: the beginning of the minute of its last request; before three days ago of the hour, before a month
            ago of the UTC day. None if it was never used.
    """

    id: str
    name: str
    last_four: str
    holder: str | None
    group: str | None
    is_operator: bool
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    last_used_at: datetime | None

    def warn_if_endless(self) -> list[str]:
        """Returns a warning if the key was replaced but never expires, as after a change of its expiry; else none."""
        if self.replaced_by is None or self.expires_at is not None or self.revoked_at is not None:
            return []
        return [
            f"The key {self.id} was replaced by {self.replaced_by}, and now works beside it for ever. Give it an expiry"
            " or revoke it, unless both are to work."
        ]


class GroupView(LimitsView, frozen=True, kw_only=True):
    """A group of holders, who share its limits."""

    id: str
    name: str
    holders: int
    created_at: datetime

    def raise_if_used(self) -> None:
        """Calls `raise_if_group_is_used` for this group."""
        raise_if_group_is_used(self.name, self.holders)


def raise_if_group_is_used(name: str, holders: int) -> None:
    """Refuses to delete a group that has holders.

    Raises:
        Conflict: it has some.
    """
    if holders:
        named = "a holder" if holders == 1 else f"{holders} holders"
        raise Conflict(
            f"The group {name!r} has {named}. Move each to another group, or out of it, with a change of one of its"
            " keys, then delete the group.",
            code="group_not_empty",
        )


class HolderKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key of a holder; the fields are those of KeyView."""

    id: str
    name: str
    last_four: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None


class HolderView(LimitsView, frozen=True, kw_only=True):
    """A holder of keys, who has the limits of all of them.

    Attributes:
        group: the name of its group; None without one.
        keys: all its keys, revoked ones too, oldest first.
        usage, usage_daily, usage_weekly, usage_monthly: what requests of these keys have cost in USD, in all and in the
            UTC day, week and month of now.
    """

    id: str
    name: str
    group: str | None
    created_at: datetime
    keys: list[HolderKey]
    usage: Decimal
    usage_daily: Decimal
    usage_weekly: Decimal
    usage_monthly: Decimal

    def raise_if_has_keys(self) -> None:
        """Refuses to delete a holder with a key that is not revoked.

        Raises:
            Conflict: it has one.
        """
        if left := [key.id for key in self.keys if key.revoked_at is None]:
            more = f" and {len(left) - 1} more" if len(left) > 1 else ""
            raise Conflict(
                f"The holder {self.name!r} has the key {left[0]}{more}. Revoke its keys, then delete it.",
                code="holder_has_keys",
            )


def make_holder_views(connection: Connection, rows: dict[str, SubjectRow]) -> list[HolderView]:
    """Returns the holders in this order, with their limits, keys and use."""
    group_ids = {row.group_id for row in rows.values() if row.group_id is not None}
    groups = select_subjects(connection, group_ids) if group_ids else {}
    limits, costs = select_limits(connection, rows), select_holder_costs(connection, list(rows))
    keys: dict[str, list[HolderKey]] = {id: [] for id in rows}
    for key in select_keys_of_holders(connection, list(rows)):
        fields = {name: getattr(key, name) for name in HolderKey.__struct_fields__}
        keys[str(key.holder_id)].append(HolderKey(**fields))
    return [
        HolderView(
            id=id,
            name=row.name,
            group=None if row.group_id is None else groups[row.group_id].name,
            created_at=row.created_at,
            keys=keys[id],
            usage=normalize(costs[id].total),
            usage_daily=normalize(costs[id].day),
            usage_weekly=normalize(costs[id].week),
            usage_monthly=normalize(costs[id].month),
            **limits[id],
        )
        for id, row in rows.items()
    ]


def make_key_views(connection: Connection, rows: Sequence[KeyRow]) -> list[KeyView]:
    """Returns the keys in this order, with their limits."""
    subjects = select_subjects(connection, {row.holder_id for row in rows if row.holder_id is not None})
    group_ids = {subject.group_id for subject in subjects.values() if subject.group_id is not None}
    groups = select_subjects(connection, group_ids) if group_ids else {}
    limits, last_used = select_limits(connection, subjects), select_last_used(connection, [row.id for row in rows])
    views = []
    for row in rows:
        holder = None if row.holder_id is None else subjects[row.holder_id]
        group = None if holder is None or holder.group_id is None else groups[holder.group_id]
        fields = {} if holder is None else limits[holder.id]
        views.append(
            KeyView(
                id=row.id,
                name=row.name,
                last_four=row.last_four,
                holder=None if holder is None else holder.name,
                group=None if group is None else group.name,
                is_operator=row.is_operator,
                created_at=row.created_at,
                expires_at=row.expires_at,
                revoked_at=row.revoked_at,
                replaced_by=row.replaced_by,
                last_used_at=last_used[row.id],
                **fields,
            )
        )
    return views


def select_limits(connection: Connection, subjects: dict[str, SubjectRow]) -> dict[str, dict[str, Any]]:
    """Returns subject id → the fields of LimitsView."""
    budgets = select_budgets(connection, list(subjects)) if subjects else []
    names = {id: (subject.kind, subject.name) for id, subject in subjects.items()}
    states = select_budget_states(connection, budgets, names)
    found: dict[str, list[BudgetState]] = {id: [] for id in subjects}
    for row in budgets:
        found[row.subject_id].append(states[row.id])
    plain = [name for name in LimitsView.__struct_fields__ if name != "budgets"]
    return {
        id: {name: getattr(subject, name) for name in plain} | {"budgets": found[id]}
        for id, subject in subjects.items()
    }
